"""What the user's own Gateways open on the project's gateway.

Whether a resource is right is judged where it is applied, with file and line: here, what cannot be
read counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.inject import names

_LISTENER_KINDS = {
    "HTTP": "http",
    "HTTP2": "http",
    "GRPC": "http",
    "HTTPS": "tls",
    "TLS": "tls",
}
"""What a listener does, by the protocol of a Gateway's server; all others pass TCP on."""


@dataclass(frozen=True, slots=True)
class UserPorts:
    """The ports that the user's Gateways open on our gateway and that a VirtualService is bound
    to; `waiting` are those for TLS that none is bound to yet.
    """

    http: tuple[int, ...] = ()
    tls: tuple[int, ...] = ()
    tcp: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()

    @property
    def all(self) -> tuple[int, ...]:
        """Every port that is served."""
        return (*self.http, *self.tls, *self.tcp)

    @property
    def opened(self) -> tuple[int, ...]:
        """Every port that is asked for."""
        return (*self.all, *self.waiting)

    @property
    def for_tls(self) -> tuple[int, ...]:
        """Every port for TLS, the one that is used most first."""
        return (*self.tls, *self.waiting)


def user_ports(config: Iterable[Mapping[str, Any]], project: str) -> UserPorts:
    """What the user's resources already make our gateway serve; port 80 first."""
    resources = list(config)
    bound = {reference for resource in resources for reference in _bound(resource)}
    labels = names.gateway_labels(project)
    found: dict[str, set[int]] = {"http": set(), "tls": set(), "tcp": set()}
    waiting: set[int] = set()

    for resource in resources:
        if not _is_ours(resource, labels):
            continue
        # A Gateway without a VirtualService answers 404 to everything: it serves nothing yet.
        is_bound = _key(resource) in bound
        for number, protocol in _server_ports(resource):
            kind = _LISTENER_KINDS.get(protocol, "tcp")
            if is_bound:
                found[kind].add(number)
            elif kind == "tls":
                waiting.add(number)

    return UserPorts(
        tuple(sorted(found["http"], key=lambda number: (number != 80, number))),
        tuple(sorted(found["tls"])),
        tuple(sorted(found["tcp"])),
        tuple(sorted(waiting.difference(*found.values()))),
    )


def _is_ours(resource: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    is_gateway = resource.get("kind") == "Gateway"
    selector = _section(_section(resource, "spec"), "selector")
    return (
        is_gateway
        and "istio.io" in str(resource.get("apiVersion"))
        and selector.items() <= labels.items()
    )


def _server_ports(gateway: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """Number and protocol of each server; what is not a number was refused elsewhere."""
    servers = _section(gateway, "spec").get("servers")
    for server in servers if isinstance(servers, list) else ():
        port = _section(server, "port")
        if str(port.get("number")).isdigit():
            yield int(port["number"]), str(port.get("protocol", "HTTP")).upper()


def _bound(resource: Mapping[str, Any]) -> list[str]:
    """The Gateways that a VirtualService names, as namespace/name."""
    if resource.get("kind") != "VirtualService":
        return []
    namespace = _namespace(resource)
    gateways = _section(resource, "spec").get("gateways")
    named = [
        str(item)
        for item in (gateways if isinstance(gateways, list) else ())
        if item != "mesh"
    ]
    return [item if "/" in item else f"{namespace}/{item}" for item in named]


def _key(resource: Mapping[str, Any]) -> str:
    return f"{_namespace(resource)}/{(resource.get('metadata') or {}).get('name')}"


def _namespace(resource: Mapping[str, Any]) -> str:
    return str(_section(resource, "metadata").get("namespace") or "default")


def _section(value: Any, key: str) -> Mapping[str, Any]:
    """A mapping inside a resource."""
    found = value.get(key) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
