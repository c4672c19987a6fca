"""Whether Envoy takes the format of an access log, its text or the values of its JSON.

Invariant: what passes here Envoy takes, for it refuses a listener whole for one bad operator.
Source: https://www.envoyproxy.io/docs/envoy/v1.40.0/configuration/observability/access_log/usage,
and Envoy 1.40 itself (`tests/protocol/test_access_logs.py` asks it).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from dockermesh.config.rules.cel import check_expression

_OPERATOR = re.compile(
    r"%(?P<name>[A-Z][A-Z0-9_]*)(\((?P<argument>[^)\n]*)\))?(?P<cut>:[0-9]{1,9})?%"
)
_LONGEST = 10_000
_DEEPEST = 10
_PLAIN = frozenset(
    {
        "ACCESS_LOG_TYPE",
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "CONNECTION_ID",
        "CONNECTION_TERMINATION_DETAILS",
        "CUSTOM_FLAGS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        "DOWNSTREAM_HANDSHAKE_DURATION",
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        "DOWNSTREAM_HEADER_BYTES_SENT",
        "DOWNSTREAM_LOCAL_ADDRESS",
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_LOCAL_DNS_SAN",
        "DOWNSTREAM_LOCAL_IP_SAN",
        "DOWNSTREAM_LOCAL_PORT",
        "DOWNSTREAM_LOCAL_SUBJECT",
        "DOWNSTREAM_LOCAL_URI_SAN",
        "DOWNSTREAM_PEER_CERT",
        "DOWNSTREAM_PEER_DNS_SAN",
        "DOWNSTREAM_PEER_FINGERPRINT_1",
        "DOWNSTREAM_PEER_FINGERPRINT_256",
        "DOWNSTREAM_PEER_IP_SAN",
        "DOWNSTREAM_PEER_ISSUER",
        "DOWNSTREAM_PEER_SERIAL",
        "DOWNSTREAM_PEER_SUBJECT",
        "DOWNSTREAM_PEER_URI_SAN",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "DOWNSTREAM_TLS_CIPHER",
        "DOWNSTREAM_TLS_SESSION_ID",
        "DOWNSTREAM_TLS_VERSION",
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        "DOWNSTREAM_WIRE_BYTES_SENT",
        "DURATION",
        "FILTER_CHAIN_NAME",
        "GRPC_STATUS_NUMBER",
        "HOSTNAME",
        "LOCAL_REPLY_BODY",
        "PROTOCOL",
        "REQUEST_DURATION",
        "REQUEST_HEADERS_BYTES",
        "REQUEST_TX_DURATION",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_DURATION",
        "RESPONSE_FLAGS",
        "RESPONSE_FLAGS_LONG",
        "RESPONSE_HEADERS_BYTES",
        "RESPONSE_TRAILERS_BYTES",
        "RESPONSE_TX_DURATION",
        "ROUNDTRIP_DURATION",
        "ROUTE_NAME",
        "SPAN_ID",
        "STREAM_ID",
        "TLS_JA3_FINGERPRINT",
        "TLS_JA4_FINGERPRINT",
        "TRACE_ID",
        "UNIQUE_ID",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_CLUSTER_RAW",
        "UPSTREAM_CONNECTION_ID",
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        "UPSTREAM_HEADER_BYTES_RECEIVED",
        "UPSTREAM_HEADER_BYTES_SENT",
        "UPSTREAM_HOST",
        "UPSTREAM_HOST_NAME",
        "UPSTREAM_LOCAL_ADDRESS",
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_LOCAL_PORT",
        "UPSTREAM_PEER_CERT",
        "UPSTREAM_PEER_DNS_SAN",
        "UPSTREAM_PEER_ISSUER",
        "UPSTREAM_PEER_SUBJECT",
        "UPSTREAM_PEER_URI_SAN",
        "UPSTREAM_PROTOCOL",
        "UPSTREAM_REMOTE_ADDRESS",
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "UPSTREAM_REMOTE_PORT",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        "UPSTREAM_TLS_CIPHER",
        "UPSTREAM_TLS_SESSION_ID",
        "UPSTREAM_TLS_VERSION",
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        "UPSTREAM_WIRE_BYTES_SENT",
        "VIRTUAL_CLUSTER_NAME",
    }
)
"""Operators of which nothing more can be said."""
_CUT = frozenset(
    {"REQ", "RESP", "TRAILER", "REQUEST_HEADER", "RESPONSE_HEADER", "REQ_WITHOUT_QUERY"}
)
"""Operators of headers, which alone take a length, at which their text ends."""
_HEADER = r":?[!#$&'*+\-.^_`|~0-9A-Za-z]+"
_TIME = r"(?:[^%]|%[^nt%])*"
_KEYS = r"[^:?]+(:[^:?]+)*"
_ARGUMENTS: Mapping[str, tuple[str, bool]] = {
    **dict.fromkeys(_CUT, (rf"{_HEADER}(\?{_HEADER})?", True)),
    **dict.fromkeys(
        (
            "START_TIME",
            "DOWNSTREAM_PEER_CERT_V_START",
            "DOWNSTREAM_PEER_CERT_V_END",
            "UPSTREAM_PEER_CERT_V_START",
            "UPSTREAM_PEER_CERT_V_END",
        ),
        (_TIME, False),
    ),
    **dict.fromkeys(
        ("DYNAMIC_METADATA", "CLUSTER_METADATA", "UPSTREAM_METADATA"), (_KEYS, True)
    ),
    "METADATA": (f"(CLUSTER|ROUTE|DYNAMIC|UPSTREAM_HOST|LISTENER):{_KEYS}", True),
    "FILTER_STATE": (r"[^:?]+(:PLAIN|:TYPED|:FIELD:[^:?]+)?", True),
    "ENVIRONMENT": (r"[A-Za-z_][A-Za-z0-9_]*", True),
    "QUERY_PARAM": (r"[^?:]+", True),
    "GRPC_STATUS": ("CAMEL_STRING|SNAKE_STRING|NUMBER", False),
    "REQUESTED_SERVER_NAME": ("", False),
    "COMMON_DURATION": (r"[A-Z_]+:[A-Z_]+:(ms|us|ns)", True),
    # What is asked is a condition's language; its own check says what is wrong.
    "CEL": (r".+", True),
}
"""What stands in the brackets of the others, and whether they have to."""


def check_text(text: str) -> str:
    """What is wrong with a line of text, or nothing."""
    if len(text) > _LONGEST:
        return f"must have at most {_LONGEST} characters"
    if "\0" in text:
        return "must not have a NUL"

    at = 0
    while (at := text.find("%", at)) >= 0:
        if text.startswith("%%", at):
            at += 2
            continue
        match = _OPERATOR.match(text, at)
        if match is None:
            return (
                f"column {at + 1}: {_excerpt(text, at)} is no operator, and a % is %%"
            )
        if wrong := _check_operator(match):
            return f"column {at + 1}: {wrong}"
        at = match.end()

    return ""


def check_labels(
    labels: Mapping[str, Any],
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The wrong values of a line of JSON, each with its place."""
    yield from _check_value(labels, ())


def _check_value(
    value: Any, at: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if len(at) > _DEEPEST:
        yield at, "is nested too deeply"
    elif isinstance(value, str):
        if wrong := check_text(value):
            yield at, wrong
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _check_value(entry, (*at, str(key)))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _check_value(entry, (*at, index))


def _check_operator(match: re.Match[str]) -> str:
    name, argument = match["name"], match["argument"]
    if name in _PLAIN:
        return f"%{name}% has no brackets" if argument is not None else _cut(match)
    if name not in _ARGUMENTS:
        near = get_close_matches(name, [*_PLAIN, *_ARGUMENTS], 1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"there is no operator {name[:40]}{hint}"

    pattern, is_needed = _ARGUMENTS[name]
    if not argument:
        return (
            f"%{name}(...)% needs something in brackets" if is_needed else _cut(match)
        )
    if not re.fullmatch(pattern, argument, re.ASCII):
        return f"%{name}% has no {argument[:40]!r}"
    if name == "CEL" and (wrong := check_expression(argument)):
        return wrong
    return _cut(match)


def _cut(match: re.Match[str]) -> str:
    is_cut = match["cut"] is not None and match["name"] not in _CUT
    return f"%{match['name']}% takes no length" if is_cut else ""


def _excerpt(text: str, at: int) -> str:
    return repr(text[at : at + 20])
