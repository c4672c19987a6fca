"""The HTTP plumbing that the four Bookinfo services share.

Only the standard library, so that an image is the Python base image and a few kilobytes, and builds
without a network.
"""
