"""Which network namespaces the agent is to have in its care, by what the engine says. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dockermesh.registrar.container import Container
from dockermesh.registrar.node_mode import namespace_path


@dataclass(frozen=True, slots=True)
class Place:
    """The network namespace of a workload: `path` is its file, `started` when its container was
    (nanoseconds since the epoch), `detours` as in `capture`.
    """

    path: str
    workload: str
    started: int = 0
    detours: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def places(
    containers: Iterable[Container],
    neighbours: Iterable[Mapping[str, str]],
    mesh_network: str,
) -> dict[str, Place]:
    """The places of those that are in node mode, by path. `neighbours` are the addresses of all
    that a workload may be, by network.
    """
    several = [found for found in neighbours if len(found) > 1]
    made = {}
    for container in containers:
        path = namespace_path(container) if container.is_node_mode else ""
        if path:
            made[path] = Place(
                path,
                container.group,
                container.state.started,
                _detours(container.networks, several, mesh_network),
            )
    return made


def _detours(
    own: Mapping[str, str], several: Iterable[Mapping[str, str]], mesh_network: str
) -> Mapping[str, str]:
    """How those are reached that are called at an address on a network that this one is not on."""
    found = {}
    for other in several:
        called, address = _called_at(other, mesh_network)
        if called in own:
            continue
        shared = sorted(n for n in other.keys() & own.keys() if other[n])
        # Only IPv4 is captured.
        if shared and address and ":" not in address + other[shared[0]]:
            found[address] = other[shared[0]]
    return MappingProxyType(found)


def _called_at(networks: Mapping[str, str], mesh_network: str) -> tuple[str, str]:
    """The network and the address by which the registrar has a workload."""
    ordered = sorted(networks.items(), key=lambda item: (item[0] != mesh_network, item))
    return next(((name, ip) for name, ip in ordered if ip), ("", ""))


def network_of(address: str, subnets: Mapping[str, Iterable[str]]) -> str:
    """The network (a key) that has a place for an address in one of its subnets; empty if none."""
    if not address:
        return ""
    wanted = ipaddress.ip_address(address)
    return next(
        (
            network
            for network, listed in subnets.items()
            if any(
                wanted in ipaddress.ip_network(text, strict=False) for text in listed
            )
        ),
        "",
    )
