"""Application protocols, and how a port's protocol is found when nobody declared it.

Source of the names and of the order of the rules: Istio's "Protocol Selection" and
`pkg/config/protocol`.
"""

from __future__ import annotations

from enum import StrEnum


class Protocol(StrEnum):
    """What is spoken on a port; values are Istio's lower-case names."""

    HTTP = "http"
    HTTP2 = "http2"
    GRPC = "grpc"
    GRPC_WEB = "grpc-web"
    HTTPS = "https"
    TLS = "tls"
    TCP = "tcp"
    UDP = "udp"
    MONGO = "mongo"
    MYSQL = "mysql"
    REDIS = "redis"
    AUTO = "auto"
    """Undeclared: sniffed by the proxy."""

    @property
    def is_http(self) -> bool:
        """Whether requests can be routed one by one."""
        return self in _HTTP

    @property
    def is_http2(self) -> bool:
        """Whether the app expects HTTP/2 with prior knowledge."""
        return self in _HTTP2


_HTTP = frozenset({Protocol.HTTP, Protocol.HTTP2, Protocol.GRPC, Protocol.GRPC_WEB})
_HTTP2 = frozenset({Protocol.HTTP2, Protocol.GRPC})
_BY_NAME = {p.value: p for p in Protocol} | {
    "mongodb": Protocol.MONGO,
    "postgres": Protocol.TCP,
}
# Ports where the server speaks first, or that are never HTTP: sniffing would stall them
# (Istio: "server-first protocols").
_WELL_KNOWN = {
    22: Protocol.TCP,
    25: Protocol.TCP,
    53: Protocol.TCP,
    443: Protocol.HTTPS,
    3306: Protocol.MYSQL,
    5432: Protocol.TCP,
    6379: Protocol.REDIS,
    27017: Protocol.MONGO,
    9090: Protocol.AUTO,
}


def parse_protocol(text: str) -> Protocol | None:
    """The protocol with this name, in any case; None if there is none."""
    return _BY_NAME.get(text.strip().lower())


def infer_protocol(
    *, declared: str = "", port_name: str = "", number: int = 0
) -> Protocol:
    """The protocol of a port: declared, else the prefix of its name (`http-web`), else well known,
    else AUTO.
    """
    for candidate in (
        declared,
        port_name,
        port_name.rsplit("-", 1)[0],
        port_name.split("-", 1)[0],
    ):
        found = parse_protocol(candidate) if candidate else None
        if found is not None:
            return found
    return _WELL_KNOWN.get(number, Protocol.AUTO)
