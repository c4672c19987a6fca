"""Serving HTTP: ports, TLS with leaves of the mesh CA, and bearer tokens.

Whatever is served (config API, debug pages, a dashboard) is an aiohttp application that comes from
above; this package knows none of them.
"""
