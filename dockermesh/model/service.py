"""Services and their endpoints, as every source of them (Consul, Docker, ServiceEntry) describes
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from dockermesh.model.contract import RESERVED_NAMES
from dockermesh.model.protocol import Protocol

SERVICE_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
"""What a service of the mesh can be called: one label of a host name, in which Docker and Consul
also take `_`.
"""


def is_service_name(name: str) -> bool:
    """Whether a workload may serve something of this name: no whole host's, not the mesh's own."""
    return SERVICE_NAME.fullmatch(name) is not None and name.lower() not in (
        RESERVED_NAMES
    )


NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Health(StrEnum):
    """Whether an endpoint may get requests."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    DRAINING = "draining"


class Resolution(StrEnum):
    """Where the addresses of a service's endpoints come from; names are those of Istio's
    ServiceEntry.
    """

    STATIC = "STATIC"
    DNS = "DNS"
    DNS_ROUND_ROBIN = "DNS_ROUND_ROBIN"
    DYNAMIC_DNS = "DYNAMIC_DNS"
    NONE = "NONE"


@dataclass(frozen=True, slots=True)
class Port:
    """A port of a service, as clients see it."""

    number: int
    protocol: Protocol = Protocol.AUTO
    name: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica of a service on one port.

    `port` is where the replica listens, `service_port` the port of the service it answers for (0:
    the same). `labels` hold what subsets select on: Docker labels, Consul meta and tags `key|value`
    or `key=value`. `workload` is the name of the meshed workload (`bookinfo/reviews-v1-1`), empty
    when there is no proxy in front. `takes_mtls`: its proxy, which was attested, is to be called
    over mutual TLS; translation finds that out. `gave_way` is `<id> <holder>` where it asked for an
    id that is another's.
    """

    address: str
    port: int
    id: str = ""
    service_port: int = 0
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    health: Health = Health.HEALTHY
    workload: str = ""
    namespace: str = "default"
    service_account: str = ""
    locality: str = ""
    weight: int = 1
    takes_mtls: bool = False
    gave_way: str = ""


@dataclass(frozen=True, slots=True)
class Service:
    """A name that clients call, its ports and its endpoints.

    `name` is the short name (`reviews`); `hostname` the one that Consul's DNS would answer
    (`reviews.service.consul`). `aliases` are further host names of the same service. `addresses`
    are IPs and networks that clients may call beside the virtual IP. `is_external`: not part of the
    mesh. `is_declared`: made by a ServiceEntry, not found in a registry; it is called by its
    hostname alone. `export_to` are the namespaces that may see it, in Istio's form; empty: all.
    `subject_alt_names` are the identities that its endpoints may have. `accounts` are namespaces
    and service accounts of the attested workloads that serve it, `is_meshed` whether there are any;
    translation finds both out. `project` is there on what a Compose project has for itself of a
    name that several projects use; `shared` is then the hostname of what all others call so, and
    rules for that are rules for this, too. Sources keep the same object for a service that did not
    change: translation is cached by identity.
    """

    name: str
    hostname: str
    ports: tuple[Port, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    namespace: str = "default"
    aliases: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=lambda: NO_LABELS)
    resolution: Resolution = Resolution.STATIC
    addresses: tuple[str, ...] = ()
    is_external: bool = False
    is_declared: bool = False
    export_to: tuple[str, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    accounts: tuple[tuple[str, str], ...] = ()
    is_meshed: bool = False
    project: str = ""
    shared: str = ""
