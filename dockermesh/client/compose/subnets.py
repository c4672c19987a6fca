"""Which subnets the mesh's own networks get, and which of Docker's networks are in the way.

Invariant: a network that is there keeps its subnet; a subnet that a variable names is the user's
choice. A new mesh gives way to everything else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockermesh.errors import InputError
from dockermesh.model.contract import (
    CONTROL_NETWORK,
    CONTROL_SUBNET,
    ENV_CONTROL_SUBNET,
    ENV_SUBNET,
    MESH_NETWORK,
    MESH_SUBNET,
)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Subnets = Mapping[str, Sequence[str]]
# As compose/mesh.yaml has them: the variable, the network and its subnet.
_OURS = (
    (ENV_SUBNET, MESH_NETWORK, MESH_SUBNET),
    (ENV_CONTROL_SUBNET, CONTROL_NETWORK, CONTROL_SUBNET),
)
# Docker gives networks addresses from 172.17.0.0/16 upwards; clouds like 172.31.0.0/16.
_SPARE = {
    ENV_SUBNET: (
        *(f"172.{n}.0.0/16" for n in (30, 29, 27, 26, 25, 24, 23, 22)),
        *(f"10.{n}.0.0/16" for n in range(253, 200, -1)),
    ),
    ENV_CONTROL_SUBNET: tuple(f"10.{n}.28.0/28" for n in range(253, 200, -1)),
}


@dataclass(frozen=True, slots=True)
class ChosenSubnets:
    """The settings for mesh.yaml, the mesh network's first address, and what is not as usual."""

    settings: Mapping[str, str]
    gateway: str
    notes: tuple[str, ...] = ()


def declared_subnets(project: Mapping[str, Any]) -> dict[str, list[str]]:
    """The subnets that a project's own networks are to have, by the name that Docker knows."""
    found: dict[str, list[str]] = {}
    for key, network in (project.get("networks") or {}).items():
        configs = ((network or {}).get("ipam") or {}).get("config") or ()
        subnets = [str(c["subnet"]) for c in configs if c.get("subnet")]
        if subnets and not (network or {}).get("external"):
            found[str(network.get("name") or key)] = subnets
    return found


def choose_subnets(
    existing: Subnets, declared: Subnets, env: Mapping[str, str], network: str
) -> ChosenSubnets:
    """Subnets for the mesh that neither a network of the engine nor one of the app's overlaps;
    `network` is the mesh network's name.

    Raises InputError for an app's network that overlaps with one that the mesh has already.
    """
    settings: dict[str, str] = {}
    notes: list[str] = []

    for variable, usual_name, default in _OURS:
        own = network if variable == ENV_SUBNET else usual_name
        others = {n: s for n, s in {**existing, **declared}.items() if n != own}
        present = [s for s in existing.get(own, ()) if _is_ipv4(s)]
        if present:
            _refuse_overlap(own, present[0], declared, existing, variable)

        if env.get(variable):
            settings[variable] = env[variable]
        elif present:
            settings[variable] = present[0]
        else:
            free = (s for s in (default, *_SPARE[variable]) if not _holder(s, others))
            settings[variable] = next(free, default)
            if settings[variable] != default:
                why = f"{default} overlaps with network {_holder(default, others)}"
                notes.append(f"network {own} has {settings[variable]} ({why})")

    return ChosenSubnets(settings, _first_address(settings[ENV_SUBNET]), tuple(notes))


def _refuse_overlap(
    own: str, subnet: str, declared: Subnets, existing: Subnets, variable: str
) -> None:
    wanted = {n: s for n, s in declared.items() if n not in existing}
    name = _holder(subnet, wanted)
    if name:
        raise InputError(
            f"its subnet {', '.join(wanted[name])} overlaps with {subnet}, which the mesh's network"
            f" {own} has",
            where=f"network {name}",
            fix=(
                "give it another subnet; or take the mesh's projects down (`dockermesh down`): a"
                f" new mesh chooses another one by itself, or takes that of {variable}"
            ),
        )


def _holder(subnet: str, others: Subnets) -> str:
    """The first network that overlaps with a subnet."""
    wanted = _network(subnet)
    found = (
        name
        for name, subnets in others.items()
        if any(_overlap(wanted, _network(other)) for other in subnets)
    )
    return next(found, "")


def _is_ipv4(subnet: str) -> bool:
    return isinstance(_network(subnet), ipaddress.IPv4Network)


def _first_address(subnet: str) -> str:
    """The gateway's, where none is said."""
    network = _network(subnet)
    return str(network.network_address + 1) if network is not None else ""


def overlaps(subnets: Subnets, env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is in the way, and how to mend it, for each network of the mesh that is not there yet
    and whose subnet is said. `subnets` are those of the engine's networks by name.
    """
    for variable, own, _ in _OURS:
        said = env.get(variable)
        if not said or own in subnets:
            continue
        for name, found in subnets.items():
            if _holder(said, {name: found}):
                yield (
                    f"network {name} has {', '.join(found)}, which the network {own} needs",
                    f"`docker network rm {name}` if nothing needs it, or set {variable} (now"
                    f" {said}) to another, or to nothing: `up` chooses one",
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
