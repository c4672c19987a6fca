"""ServiceEntry: a service that no registry knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated

from dockermesh.config.api.common import WorkloadSelector
from dockermesh.config.api.workload import WorkloadEntry
from dockermesh.config.fields import REQUIRED, Length, UInt32


class Location(StrEnum):
    """Whether the service is part of the mesh."""

    # No mutual TLS is spoken with it.
    MESH_EXTERNAL = "MESH_EXTERNAL"
    MESH_INTERNAL = "MESH_INTERNAL"


class Resolution(StrEnum):
    """How the addresses of the endpoints are found."""

    # The address that the app connects to is the one that is called.
    NONE = "NONE"
    STATIC = "STATIC"
    DNS = "DNS"
    # A connection stays at its address when another one is resolved.
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    # For wildcards: the name is resolved that each request says.
    DYNAMIC_DNS = "DYNAMIC_DNS"


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of the service; `target_port` 0 is the same number."""

    number: UInt32 = 0
    protocol: Annotated[str, Length(high=256)] = ""
    name: Annotated[str, Length(high=256)] = ""
    target_port: UInt32 = 0


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """The hosts, ports and endpoints of a service."""

    hosts: Annotated[tuple[str, ...], Length(low=1, high=256)] = field(
        default=(), metadata=REQUIRED
    )
    # Without any, a virtual address is given out, so that two TCP services may share a port.
    addresses: Annotated[
        tuple[Annotated[str, Length(high=64)], ...], Length(high=256)
    ] = ()
    ports: Annotated[tuple[ServicePort, ...], Length(high=256)] = ()
    location: Location = Location.MESH_EXTERNAL
    resolution: Resolution = Resolution.NONE
    endpoints: Annotated[tuple[WorkloadEntry, ...], Length(high=4096)] = ()
    workload_selector: WorkloadSelector | None = None
    export_to: tuple[str, ...] = ()
    # Whom the server may be, where a DestinationRule asks for TLS and says nothing.
    subject_alt_names: tuple[str, ...] = ()
