"""Names and values of HTTP headers, as Envoy takes them."""

from __future__ import annotations

import re

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.virtual_service import HeaderOperations, Headers
from dockermesh.config.findings import Cursor
from dockermesh.config.rules.regex import check_regex
from dockermesh.config.rules.scope import report

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~A-Za-z0-9-]+")
_STRICT = re.compile(r"[-A-Za-z0-9]+")
_CLAIM = re.compile(r"@request\.auth\.claims(?:\..+|(?:\[[^\[\]]+\])+)", re.IGNORECASE)
# What HTTP/2 sends of the request line, as headers.
_PSEUDO = frozenset({":method", ":scheme", ":authority", ":path", ":status"})
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_STRING = r'"(?:[^"\\]|\\.)*"'
# Envoy's substitution: %NAME%, %NAME(argument)% or %NAME(["a", "b"])%; %% is a percent sign.
_VALUE = re.compile(
    rf"(?:[^%]|%%|%[^%(]+%|%[^%(]*\( *(?:\[ *{_STRING}(?: *, *{_STRING})* *\] *|[^\["
    r" ](?:[^)\\\"]|\\.)*)\) *%)*"
)


def is_jwt_claim(name: str) -> bool:
    """Whether it is the pseudo header by which gateways route on a claim."""
    return _CLAIM.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Any header name of HTTP."""
    if not name:
        return "header name must not be empty"
    return "" if _TOKEN.fullmatch(name) else f"{name[:80]!r} is not a valid header name"


def check_strict_name(name: str) -> str:
    """A header name of letters, digits and '-'."""
    if not name:
        return "header name must not be empty"
    return (
        "" if _STRICT.fullmatch(name) else f"{name[:80]!r} is not a valid header name"
    )


def check_match_name(name: str) -> str:
    """A header to match on: also a pseudo header, or a claim."""
    return "" if name in _PSEUDO or is_jwt_claim(name) else check_name(name)


def check_string(string: StringMatch, at: Cursor) -> None:
    """How a header's value, or another text, is compared."""
    # Every text begins with nothing.
    if string.prefix == "":
        (at / "prefix").error("prefix must not be empty")
    if string.regex is not None:
        report(at / "regex", check_regex(string.regex))


def check_cors_name(name: str) -> str:
    """A header in a CORS policy: also `*`."""
    return "" if name == "*" else check_name(name)


def check_value(value: str) -> str:
    """A header value, in which `%` starts a variable of Envoy."""
    if _CONTROL.search(value):
        return "header value must not contain control characters"
    return (
        ""
        if _VALUE.fullmatch(value)
        else f"header value {value[:80]!r} has a '%' that starts no variable; write %%"
    )


def is_authority(name: str) -> bool:
    """Whether the header is the request's host."""
    return name.lower() in (":authority", "host")


def check_headers(headers: Headers | None, at: Cursor) -> None:
    """Header operations of a route or of a destination."""
    if headers is None:
        return
    if headers.request is not None:
        _check_operations(headers.request, at / "request", is_request=True)
    if headers.response is not None:
        _check_operations(headers.response, at / "response", is_request=False)


def _check_operations(
    operations: HeaderOperations, at: Cursor, *, is_request: bool
) -> None:
    for verb, entries in (("set", operations.set), ("add", operations.add)):
        for name, value in entries.items():
            report(
                at / verb / name,
                _check_changed_name(name, authority_allowed=is_request),
            )
            report(at / verb / name, check_value(value))
    for index, name in enumerate(operations.remove):
        report(
            at / "remove" / index, _check_changed_name(name, authority_allowed=False)
        )


def _check_changed_name(name: str, *, authority_allowed: bool) -> str:
    if not name:
        return "header name must not be empty"
    if authority_allowed and is_authority(name):
        return ""
    # In HTTP/2, which is what Envoy thinks in, the host is :authority.
    if name.lower() == "host":
        return "the Host header cannot be changed here"
    return f"header {name!r} must not start with ':'" if name.startswith(":") else ""
