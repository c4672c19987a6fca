"""Under which URLs an app is reached from here, wherever the engine is."""

from __future__ import annotations

from collections.abc import Iterable

from dockermesh.client.mesh.route import Route
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.whereabouts import (
    bracketed,
    host_from_here,
    is_loopback,
    publishes_here,
)
from dockermesh.inject.options import PortMapping

_HTTP = {"http", "http2", "grpc", "auto"}


def published_host(engine: LocalEngine, route: Route) -> str:
    """Where the engine's published ports are reached: `localhost` if the control plane's are, else
    the engine's host.
    """
    is_here = bool(route.url()) or publishes_here(engine)
    return "localhost" if is_here else host_from_here(engine)


def gateway_urls(ports: Iterable[PortMapping], host: str) -> list[tuple[str, str]]:
    """Service and URL of each port that moved to the gateway; `HOST:PORT` where it is not HTTP."""
    return [(mapping.service, _url(mapping, host)) for mapping in ports]


def _url(mapping: PortMapping, host: str) -> str:
    scheme = "http://" if mapping.protocol.lower() in _HTTP else ""
    return f"{scheme}{_place(mapping.host_ip, host)}:{mapping.host_port}"


def _place(host_ip: str, host: str) -> str:
    if host_ip in {"", "0.0.0.0", "::"}:
        return host
    return "localhost" if is_loopback(host_ip) else bracketed(host_ip)
