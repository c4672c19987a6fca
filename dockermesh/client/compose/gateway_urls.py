"""Under which URLs an app is reached from here, wherever the engine is."""

from __future__ import annotations

from collections.abc import Iterable

from dockermesh.client.mesh.route import Route
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.whereabouts import (
    host_from_here,
    is_loopback,
    publishes_here,
)
from dockermesh.inject.options import PortMapping
from dockermesh.model.hosts import bracketed


def published_host(engine: LocalEngine, route: Route) -> str:
    """Where the engine's published ports are reached: `localhost` if the control plane's are, else
    the engine's host.
    """
    is_here = bool(route.url()) or publishes_here(engine)
    return "localhost" if is_here else host_from_here(engine)


def gateway_urls(ports: Iterable[PortMapping], host: str) -> list[tuple[str, str]]:
    """Service and URL of each port that moved to the gateway; `HOST:PORT` where no browser would
    open it.
    """
    return [(mapping.service, _url(mapping, host)) for mapping in ports]


def titled_urls(
    ports: Iterable[PortMapping], urls: Iterable[tuple[str, str]]
) -> list[tuple[str, str]]:
    """The URLs as they are printed: with the port inside where a service has several."""
    known = list(ports)
    targets: dict[str, set[int]] = {}
    for mapping in known:
        targets.setdefault(mapping.service, set()).add(mapping.target)
    return [
        (f"{service}:{mapping.target}" if len(targets[service]) > 1 else service, url)
        for mapping, (service, url) in zip(known, urls, strict=True)
    ]


def _url(mapping: PortMapping, host: str) -> str:
    scheme = f"{mapping.scheme}://" if mapping.scheme else ""
    return f"{scheme}{_place(mapping.host_ip, host)}:{mapping.host_port}"


def _place(host_ip: str, host: str) -> str:
    if host_ip in {"", "0.0.0.0", "::"}:
        return host
    return "localhost" if is_loopback(host_ip) else bracketed(host_ip)
