"""`MeshState`: everything translation may look at, as one immutable snapshot.

`build_mesh` joins the registry's catalog with the Istio resources. What did not change since the previous state is
the same object in the next one: translation is cached by identity.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from dockermesh.model import Catalog, Endpoint, Health, Port, Service, Workload, WorkloadKind
from dockermesh.model.protocol import Protocol, parse_protocol
from dockermesh.translate.settings import EdgeConfig, MeshSettings
from dockermesh.translate.vips import allocate_vips

CLUSTER_DOMAIN = "svc.cluster.local"
SERVICE_DOMAIN = "service.consul"
_REFUSING = ("127.0.0.1", 1)
"""Where nobody listens, in any proxy's network namespace (tcpmux, unused since decades)."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """Who resources are made for. `workload` is None for a proxy that no registrar attested (plaintext xDS)."""

    id: str
    kind: WorkloadKind = WorkloadKind.SIDECAR
    namespace: str = "default"
    address: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workload: Workload | None = None


@dataclass(frozen=True, slots=True)
class MeshState:
    """Services by hostname with their virtual IPs, workloads by name, and the config that applies.

    `names` maps every name by which a service may be called to its hostname; a name belongs to one service only.
    """

    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))
    names: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    vips: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    workloads: Mapping[str, Workload] = field(default_factory=lambda: MappingProxyType({}))
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    settings: MeshSettings = field(default_factory=MeshSettings)


def build_mesh(
    catalog: Catalog,
    *,
    edge: EdgeConfig | None = None,
    settings: MeshSettings | None = None,
    previous: MeshState | None = None,
) -> MeshState:
    """The state after `catalog` (and config); parts that equal `previous` are taken over from it."""
    before = previous or MeshState()
    services = _with_workloads(catalog, before.services)
    vips, names = before.vips, before.names
    if services.keys() != before.services.keys():
        vips, names = allocate_vips(services), _names(services)
    return MeshState(
        services=services,
        names=names,
        vips=vips,
        workloads=catalog.workloads,
        edge=edge if edge is not None else before.edge,
        settings=settings if settings is not None else before.settings,
    )


def host_names(service: Service) -> list[str]:
    """Every name by which an app may call the service, the hostname first.

    Consul's forms (`reviews.service.consul`, `reviews.service`), Kubernetes' (`reviews.default.svc.cluster.local` and
    what it shortens to), the short name, and the aliases.
    """
    name, namespace = service.name, service.namespace
    listed = [
        service.hostname,
        name,
        f"{name}.service",
        f"{name}.{namespace}",
        f"{name}.{namespace}.svc",
        f"{name}.{namespace}.{CLUSTER_DOMAIN}",
        *service.aliases,
    ]
    return list(dict.fromkeys(text.lower() for text in listed))


def _names(services: Mapping[str, Service]) -> dict[str, str]:
    """Names to hostnames. A hostname is never taken away by another service's alias; else the first in order wins."""
    names = {host.lower(): host for host in services}
    for host in sorted(services):
        for name in host_names(services[host]):
            names.setdefault(name, host)
    return names


def _with_workloads(catalog: Catalog, before: Mapping[str, Service]) -> dict[str, Service]:
    """The catalog's services, and those that only stopped workloads serve at the moment.

    A service lives as long as a pod of it exists. When no endpoint is registered, one stands in that refuses every
    connection at once: requests are then retried until the app is back, instead of failing at the first try.
    """
    services = dict(catalog.services)
    missing: dict[str, dict[int, Port]] = defaultdict(dict)
    for workload in catalog.workloads.values():
        for served in workload.ports:
            for name in {served.service, compose_service(workload)}:
                host = f"{name}.{SERVICE_DOMAIN}"
                known = services.get(host)
                if known is None or not known.endpoints:
                    protocol = parse_protocol(served.protocol) or Protocol.AUTO
                    missing[host][served.port] = Port(served.port, protocol)
    for host, ports in missing.items():
        standing_in = _stand_in(host, tuple(ports[number] for number in sorted(ports)))
        old = before.get(host)
        services[host] = old if old == standing_in else standing_in
    return services


def compose_service(workload: Workload) -> str:
    """The Compose service of a workload `<project>/<service>-<replica>`."""
    return workload.name.rpartition("/")[2].rpartition("-")[0]


def _stand_in(host: str, ports: tuple[Port, ...]) -> Service:
    endpoints = tuple(
        Endpoint(address=_REFUSING[0], port=_REFUSING[1], service_port=port.number, health=Health.UNHEALTHY)
        for port in ports
    )
    return Service(name=host.removesuffix(f".{SERVICE_DOMAIN}"), hostname=host, ports=ports, endpoints=endpoints)
