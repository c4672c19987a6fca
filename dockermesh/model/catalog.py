"""What a registry knows at one moment: the bridge's output and the control plane's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dockermesh.model.service import Service
from dockermesh.model.workload import Workload


@dataclass(frozen=True, slots=True)
class Catalog:
    """All services by hostname and all workloads by name.

    An update makes a new catalog in which everything unchanged is the same object. `degraded` says
    why the catalog may be out of date (Consul unreachable); empty when it is current.
    """

    services: Mapping[str, Service] = field(
        default_factory=lambda: MappingProxyType({})
    )
    workloads: Mapping[str, Workload] = field(
        default_factory=lambda: MappingProxyType({})
    )
    degraded: str = ""


EMPTY_CATALOG = Catalog()
