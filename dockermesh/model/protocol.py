"""Application protocols. Source of the names: Istio's `pkg/config/protocol`."""

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


def parse_protocol(text: str) -> Protocol | None:
    """The protocol with this name, in any case; None if there is none."""
    return _BY_NAME.get(text.strip().lower())


def agreed(known: Protocol | None, other: Protocol) -> Protocol:
    """What is spoken on a port of which two things were said: what somebody declared beats what
    nobody knows, which beats datagrams.

    A number is two ports, TCP and UDP, and the mesh carries the first: only where there is no such
    port, it is one of UDP.
    """
    if known is None or _rank(other) < _rank(known):
        return other
    return known


def _rank(protocol: Protocol) -> int:
    return {Protocol.UDP: 2, Protocol.AUTO: 1}.get(protocol, 0)
