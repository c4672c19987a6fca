"""Destinations: services of Kubernetes, ServiceEntries and catalogs in one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.analysis.objects import AnalyzedObject, dig, mappings, number, texts
from dockermesh.config.api.gateway import Gateway
from dockermesh.model.catalog import Catalog
from dockermesh.model.service import Health

EVERYWHERE = "*"
_EXPORT = "networking.istio.io/exportTo"


@dataclass(frozen=True, slots=True)
class AnalyzedPort:
    """A port; `target` is 0 where it is a name or the same, `protocol` what was declared (TCP,
    HTTP, ...).
    """

    number: int
    name: str = ""
    protocol: str = ""
    target: int = 0
    target_text: str = ""
    app_protocol: str = ""


@dataclass(frozen=True, slots=True)
class AnalyzedService:
    """Something that can be called.

    `scopes` are the namespaces that see it (`*`: all); `selector` finds its workloads (None: it has
    no such thing); `endpoints` are the labels of its endpoints, and `healthy` how many may get
    requests; None where nothing is known.
    """

    hosts: tuple[str, ...]
    namespace: str
    ports: tuple[AnalyzedPort, ...] = ()
    scopes: tuple[str, ...] = (EVERYWHERE,)
    selector: Mapping[str, str] | None = None
    endpoints: tuple[Mapping[str, str], ...] | None = None
    healthy: int | None = None
    short_names: tuple[str, ...] = ()
    canonical: str = ""
    item: AnalyzedObject | None = field(default=None, compare=False)


def kubernetes_services(
    services: Iterable[AnalyzedObject], domain: str
) -> Iterator[AnalyzedService]:
    """The Services in files; `domain` ends their names."""
    for item in services:
        spec = item.body.get("spec")
        exported = item.annotations.get(_EXPORT, "")
        scopes = tuple(
            item.namespace if s.strip() == "." else s.strip()
            for s in exported.split(",")
            # An annotation, so one text with commas in it.
            if s.strip()
        )
        yield AnalyzedService(
            hosts=(f"{item.name}.{item.namespace}.{domain}",),
            namespace=item.namespace,
            ports=tuple(kubernetes_ports(item)),
            scopes=scopes or (EVERYWHERE,),
            selector=texts(dig(spec, "selector")),
            item=item,
        )


def kubernetes_ports(item: AnalyzedObject) -> Iterator[AnalyzedPort]:
    """The ports of a Service."""
    for port in mappings(dig(item.body, "spec", "ports")):
        target = port.get("targetPort")
        yield AnalyzedPort(
            number(port.get("port")),
            _text(port.get("name")),
            _text(port.get("protocol")),
            number(target),
            "" if target is None else str(target),
            _text(port.get("appProtocol")),
        )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def entry_services(entries: Iterable[AnalyzedObject]) -> Iterator[AnalyzedService]:
    """The hosts of ServiceEntries."""
    for item in entries:
        spec = item.spec
        scopes = tuple(
            item.namespace if scope == "." else scope for scope in spec.export_to
        )
        yield AnalyzedService(
            hosts=tuple(spec.hosts),
            namespace=item.namespace,
            ports=tuple(
                AnalyzedPort(p.number, p.name, p.protocol, p.target_port)
                for p in spec.ports
            ),
            # Without exportTo, a service is seen everywhere.
            scopes=(EVERYWHERE,) if EVERYWHERE in scopes or not scopes else scopes,
            # Without a selector it has the endpoints that it lists, or none.
            selector=spec.workload_selector.labels
            if spec.workload_selector is not None
            else None,
            endpoints=tuple(e.labels for e in spec.endpoints)
            if spec.endpoints
            else None,
            item=item,
        )


def catalog_services(
    catalog: Catalog, gateways: Iterable[Gateway] = (), domain: str = ""
) -> Iterator[AnalyzedService]:
    """The services of the registry, by every name that leads to them, and the mesh's own: the
    egress gateway (below `domain`), with the ports that `gateways` open on it.
    """
    # Here, as files without a catalog need nothing of translation.
    from dockermesh.translate.mesh.egress import egress_service
    from dockermesh.translate.mesh.state import host_names

    own = egress_service(catalog.workloads, gateways, domain, {})
    for service in (own | dict(catalog.services)).values():
        # Compose, Consul and Kubernetes call one service by different names.
        names = host_names(service)
        yield AnalyzedService(
            hosts=tuple(name for name in names if "." in name),
            namespace=service.namespace,
            ports=tuple(
                AnalyzedPort(p.number, p.name, p.protocol.value) for p in service.ports
            ),
            scopes=service.export_to or (EVERYWHERE,),
            endpoints=tuple(endpoint.labels for endpoint in service.endpoints),
            healthy=sum(
                endpoint.health is not Health.UNHEALTHY
                for endpoint in service.endpoints
            ),
            short_names=tuple(name for name in names if "." not in name),
            canonical=service.hostname,
        )
