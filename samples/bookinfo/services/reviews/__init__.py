"""The reviews service: what people say about a book; v1 without stars, v2 with black and v3 with
red ones.
"""
