"""Hosts, paths and methods of a RateLimit as regular expressions.

A limit's conditions are matchers of headers in Envoy, each of one expression, so the values of a
field are alternatives of one. The rules of the kind check the very expression that is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from dockermesh.config.rules.regex import literal, literal_but

_WILDCARD = re.compile(r"\*\*|\*|\{[^{}]*\}")
_SEGMENT = "[^/?]+"
_REST = "[^?]*"
_QUERY = r"(\?.*)?"
# As policies see hosts: a complete name may end with a dot, and a port may be empty.
_END = r"\.?(:\d*)?"
_SUBDOMAINS = r"[^:]+"


def hosts_expression(hosts: Iterable[str]) -> str:
    """What one of the hosts, in any case and with any port, matches."""
    listed = (
        _SUBDOMAINS + literal(host[1:]) if host.startswith("*") else literal(host)
        for host in hosts
    )
    return f"(?i)({'|'.join(listed)}){_END}"


def paths_expression(paths: Iterable[str]) -> str:
    """What a path of one of the templates matches, whatever its query."""
    return f"({'|'.join(_template(path) for path in paths)}){_QUERY}"


def methods_expression(methods: Iterable[str]) -> str:
    """What one of the methods matches."""
    return "|".join(literal(method) for method in methods)


def _template(path: str) -> str:
    return literal_but(path, _WILDCARD, lambda w: _REST if w == "**" else _SEGMENT)
