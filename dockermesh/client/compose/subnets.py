"""Which Docker networks are in the way of the mesh's own."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from dockermesh.model.contract import (
    CONTROL_NETWORK,
    CONTROL_SUBNET,
    ENV_CONTROL_SUBNET,
    ENV_SUBNET,
    MESH_NETWORK,
    MESH_SUBNET,
)

# As compose/mesh.yaml has them: the variable, the network and its subnet.
_OURS = (
    (ENV_SUBNET, MESH_NETWORK, MESH_SUBNET),
    (ENV_CONTROL_SUBNET, CONTROL_NETWORK, CONTROL_SUBNET),
)
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def overlaps(
    subnets: Mapping[str, Sequence[str]], env: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """What is in the way, and how to mend it, for each network of the mesh that is not there yet.

    `subnets` are those of the engine's networks by name.
    """
    for variable, own, default in _OURS:
        wanted = _network(env.get(variable) or default)
        for name, found in subnets.items():
            if own not in subnets and any(
                _overlap(wanted, _network(subnet)) for subnet in found
            ):
                more = " and DOCKER_GATEWAY" if variable == ENV_SUBNET else ""
                fix = (
                    f"`docker network rm {name}` if nothing needs it, or set {variable}{more}"
                    f" (now {default})"
                )
                yield (
                    f"network {name} has {', '.join(found)}, which the network {own} needs",
                    fix,
                )


def _overlap(one: _Network | None, other: _Network | None) -> bool:
    if isinstance(one, ipaddress.IPv4Network) and isinstance(
        other, ipaddress.IPv4Network
    ):
        return one.overlaps(other)
    return (
        isinstance(one, ipaddress.IPv6Network)
        and isinstance(other, ipaddress.IPv6Network)
        and one.overlaps(other)
    )


def _network(text: str) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
