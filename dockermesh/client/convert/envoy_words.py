"""Mixer's expressions in Envoy's two languages: CEL, for conditions and for values of tags, and the
operators of log lines, for values of log entries and spans.
"""

from __future__ import annotations

import json

from dockermesh.client.convert.conditions import constant_of
from dockermesh.client.convert.expression import (
    Attribute,
    Call,
    Constant,
    Expression,
    Inexpressible,
    operands,
)

_CEL = {
    "request.path": "request.path",
    "request.url_path": "request.url_path",
    "request.host": "request.host",
    "request.method": "request.method",
    "request.scheme": "request.scheme",
    "request.useragent": "request.useragent",
    "request.referer": "request.referer",
    "request.id": "request.id",
    "request.size": "request.size",
    "request.total_size": "request.total_size",
    "response.code": "response.code",
    "response.size": "response.size",
    "response.total_size": "response.total_size",
    "response.duration": "request.duration",
    "response.grpc_status": "response.grpc_status",
    "connection.mtls": "connection.mtls",
    "connection.requested_server_name": "connection.requested_server_name",
    "source.principal": "connection.uri_san_peer_certificate",
    "source.user": "connection.uri_san_peer_certificate",
    "destination.port": "destination.port",
}
_MAPS = ("request.headers", "response.headers")
_INFIX = frozenset({"&&", "||", "==", "!=", "<", "<=", ">", ">=", "+"})
_OPERATORS = {
    "request.path": "%REQ(:PATH)%",
    "request.url_path": "%REQ_WITHOUT_QUERY(:PATH)%",
    "request.host": "%REQ(:AUTHORITY)%",
    "request.method": "%REQ(:METHOD)%",
    "request.scheme": "%REQ(:SCHEME)%",
    "request.useragent": "%REQ(USER-AGENT)%",
    "request.referer": "%REQ(REFERER)%",
    "request.id": "%REQ(X-REQUEST-ID)%",
    "request.time": "%START_TIME%",
    "request.size": "%BYTES_RECEIVED%",
    "request.total_size": "%BYTES_RECEIVED%",
    "response.code": "%RESPONSE_CODE%",
    "response.size": "%BYTES_SENT%",
    "response.total_size": "%BYTES_SENT%",
    "response.duration": "%DURATION%",
    "response.time": "%START_TIME%",
    "response.grpc_status": "%GRPC_STATUS%",
    "connection.id": "%CONNECTION_ID%",
    "connection.mtls": "%DOWNSTREAM_TLS_VERSION%",
    "connection.requested_server_name": "%REQUESTED_SERVER_NAME%",
    "connection.received.bytes": "%BYTES_RECEIVED%",
    "connection.received.bytes_total": "%BYTES_RECEIVED%",
    "connection.sent.bytes": "%BYTES_SENT%",
    "connection.sent.bytes_total": "%BYTES_SENT%",
    "connection.duration": "%DURATION%",
    "context.protocol": "%PROTOCOL%",
    "context.proxy_error_code": "%RESPONSE_FLAGS%",
    "source.ip": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    "origin.ip": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "destination.ip": "%UPSTREAM_HOST%",
    "destination.port": "%DOWNSTREAM_LOCAL_PORT%",
    "destination.service": "%REQ(:AUTHORITY)%",
    "destination.service.host": "%REQ(:AUTHORITY)%",
}
_CALLER = "%DOWNSTREAM_PEER_URI_SAN%"
_CALLED = "%UPSTREAM_CLUSTER%"


def cel(expression: Expression) -> str:
    """The expression in CEL, with Envoy's attributes. Raises Inexpressible."""
    constant = constant_of(expression)
    if constant is not None:
        return json.dumps(constant)
    if isinstance(expression, Attribute):
        return _cel_attribute(expression)
    assert isinstance(expression, Call)
    name, arguments = expression.function, expression.arguments
    if name == "|":
        return _first_there(operands(expression))
    if name in _INFIX:
        left, right = (_side(each, arguments) for each in arguments)
        return f"({left} {name} {right})"
    if name == "conditional" and len(arguments) == 3:
        test, yes, no = map(cel, arguments)
        return f"({test} ? {yes} : {no})"
    if name in ("startsWith", "endsWith") and len(arguments) == 2:
        return f"{cel(arguments[0])}.{name}({cel(arguments[1])})"
    if name == "matches" and len(arguments) == 2:
        return f"{cel(arguments[1])}.matches({cel(arguments[0])})"
    if name == "match" and len(arguments) == 2:
        return _glob(arguments[0], constant_of(arguments[1]))
    raise Inexpressible(f"Envoy's conditions have no {name}(...)")


def _cel_attribute(attribute: Attribute) -> str:
    if attribute.name in _MAPS and attribute.key:
        return f"{attribute.name}[{json.dumps(attribute.key.lower())}]"
    if attribute.name not in _CEL:
        raise Inexpressible(f"Envoy's conditions know no {attribute}")
    return _CEL[attribute.name]


def _side(expression: Expression, both: tuple[Expression, ...]) -> str:
    found = cel(expression)
    is_time = any(
        each == Attribute("response.duration")
        for side in both
        for each in operands(side)
    )
    return f"duration({found})" if is_time and found.startswith('"') else found


def _first_there(choices: tuple[Expression, ...]) -> str:
    first, *rest = choices
    found = cel(first)
    if not rest or not isinstance(first, Attribute) or not first.key:
        # What is no map's entry is there in every request.
        return found
    key = json.dumps(first.key.lower())
    return f"({key} in {first.name} ? {found} : {_first_there(tuple(rest))})"


def _glob(subject: Expression, pattern: object) -> str:
    found = cel(subject)
    if not isinstance(pattern, str):
        raise Inexpressible("the pattern of match() is not constant")
    if pattern.endswith("*"):
        return f"{found}.startsWith({json.dumps(pattern[:-1])})"
    if pattern.startswith("*"):
        return f"{found}.endsWith({json.dumps(pattern[1:])})"
    return f"({found} == {json.dumps(pattern)})"


def operator(expression: Expression) -> tuple[str, str]:
    """The expression as an operator of Envoy's logs, or a text, and what it has instead of what was
    asked for. Raises Inexpressible.
    """
    first = operands(expression)[0]
    constant = constant_of(first)
    if constant is not None:
        shown = constant if isinstance(constant, str) else json.dumps(constant)
        return shown.replace("%", "%%"), ""
    if isinstance(first, Constant) or not isinstance(first, Attribute):
        raise Inexpressible("it is computed")
    if first.name == "request.headers":
        return f"%REQ({first.key.upper()})%", ""
    if first.name == "response.headers":
        return f"%RESP({first.key.upper()})%", ""
    if first.name in _OPERATORS:
        return _OPERATORS[first.name], ""
    side = first.name.partition(".")[0]
    if first.name in ("source.principal", "source.user"):
        return _CALLER, ""
    if side == "source":
        return _CALLER, "the caller's identity"
    if side == "destination":
        return _CALLED, "the cluster, which names the service"
    raise Inexpressible(f"Envoy's logs know no {first}")
