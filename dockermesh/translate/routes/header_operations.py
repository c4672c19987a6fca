"""Headers set, added and removed on routes.

Invariant: nothing is emitted that Envoy refuses, for it would refuse the whole route table with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2

from dockermesh.config.api.virtual_service import HeaderOperations, Headers

# Envoy refuses them as header operations: to set one is to rewrite the authority, as in Istio.
_AUTHORITY = frozenset({":authority", "host", "authority"})
_Option = base_pb2.HeaderValueOption
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Envoy's substitution commands that need no extension; another `%` would make it refuse the route.
_COMMAND = re.compile(
    r"%(?:(?:PROTOCOL|RESPONSE_CODE|RESPONSE_CODE_DETAILS|RESPONSE_FLAGS|ROUTE_NAME|HOSTNAME|BYTES_RECEIVED|BYTES_SENT"
    r"|DURATION|UPSTREAM_HOST|UPSTREAM_CLUSTER|UPSTREAM_LOCAL_ADDRESS|UPSTREAM_REMOTE_ADDRESS|REQUESTED_SERVER_NAME"
    r"|VIRTUAL_CLUSTER_NAME|CONNECTION_ID|STREAM_ID"
    r"|DOWNSTREAM_(?:REMOTE|LOCAL|DIRECT_REMOTE)_(?:ADDRESS|ADDRESS_WITHOUT_PORT|PORT)"
    r"|DOWNSTREAM_(?:PEER|LOCAL)_(?:URI_SAN|SUBJECT)|DOWNSTREAM_PEER_(?:ISSUER|SERIAL|FINGERPRINT_256|CERT)"
    r"|DOWNSTREAM_TLS_(?:VERSION|CIPHER|SESSION_ID))"
    r"|(?:REQ|RESP|TRAILER)\([^()%]+\)(?::\d+)?|START_TIME(?:\([^()%]*\))?)%|%%"
)


def apply_headers(target: Any, headers: Headers | None) -> str:
    """Put the operations on a route or a weighted cluster. Returns the authority that a rule sets,
    if it does.
    """
    if headers is None:
        return ""
    authority = ""
    request, response = headers.request, headers.response

    if request is not None:
        named = {**request.add, **request.set}
        authority = next(
            (value for name, value in named.items() if name.lower() in _AUTHORITY), ""
        )
        target.request_headers_to_add.extend(_additions(request))
        target.request_headers_to_remove.extend(_removals(request))

    if response is not None:
        target.response_headers_to_add.extend(_additions(response))
        target.response_headers_to_remove.extend(_removals(response))

    return authority


def _additions(operations: HeaderOperations) -> list[Any]:
    # In this order: what is added to a name must not be overwritten by what the name is set to.
    return [
        *_options(operations.set, _Option.OVERWRITE_IF_EXISTS_OR_ADD),
        *_options(operations.add, _Option.APPEND_IF_EXISTS_OR_ADD),
    ]


def _options(values: Mapping[str, str], action: Any) -> list[Any]:
    return [
        _Option(
            header=base_pb2.HeaderValue(key=name, value=escape(value)),
            append_action=action,
        )
        for name, value in sorted(values.items())
        if _is_mutable(name)
    ]


def _removals(operations: HeaderOperations) -> list[str]:
    return [name for name in operations.remove if _is_mutable(name)]


def _is_mutable(name: str) -> bool:
    return name.lower() not in _AUTHORITY and _NAME.fullmatch(name) is not None


def escape(value: str) -> str:
    """The value with every `%` that begins no command of Envoy taken literally."""
    parts, end = [], 0
    for found in _COMMAND.finditer(value):
        parts += [value[end : found.start()].replace("%", "%%"), found.group()]
        end = found.end()
    return "".join([*parts, value[end:].replace("%", "%%")])
