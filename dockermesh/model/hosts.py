"""Hosts as they stand before a port."""

from __future__ import annotations


def bracketed(host: str) -> str:
    """A host as URLs have it: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
