"""Registrations and workloads as a catalog, for a mesh whose registry is Docker itself.

Invariant: a service that did not change is the same object in the next catalog.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.model.contract import (
    META_ACCOUNT,
    META_ID_OF,
    META_NAMESPACE,
    META_PREFIX,
    META_SERVICE,
    META_WORKLOAD,
)
from dockermesh.model.identity import ACCOUNT_META
from dockermesh.model.protocol import agreed
from dockermesh.model.service import is_service_name
from dockermesh.registrar.mapping import Registration

T = TypeVar("T")


def build_catalog(
    registrations: Iterable[Registration],
    workloads: Iterable[Workload],
    previous: Catalog,
    *,
    domain: str,
) -> Catalog:
    """The catalog of these registrations, with host names below `domain`; `previous` lends the
    objects that stay.
    """
    known = {w.name: w for w in workloads}
    by_name: dict[str, list[Registration]] = {}
    by_compose: dict[str, list[Registration]] = {}

    for registration in sorted(registrations, key=lambda r: r.id):
        if is_service_name(registration.name):
            by_name.setdefault(registration.name, []).append(registration)
        compose = registration.meta.get(META_SERVICE, "")
        if is_service_name(compose):
            by_compose.setdefault(compose, []).append(registration)

    # Clients of an unmodified compose file call each other by Compose's names, whatever
    # SERVICE_NAME says.
    groups = by_name | {
        name: [*by_name.get(name, ()), *_others(name, found, by_name.get(name, ()))]
        for name, found in by_compose.items()
    }
    # A service whose replicas are all down still exists: requests to it wait or fail as its own,
    # not as unknown names.
    promised: dict[str, list[tuple[Workload, ServedPort]]] = {}

    for workload in sorted(known.values(), key=lambda w: w.name):
        for port in workload.ports:
            if is_service_name(port.service):
                promised.setdefault(port.service, []).append((workload, port))

    services = {}
    for name in groups.keys() | promised.keys():
        service = _service(
            name, domain, groups.get(name, []), promised.get(name, []), known
        )
        services[service.hostname] = _same(
            previous.services.get(service.hostname), service
        )

    kept = {
        name: _same(previous.workloads.get(name), workload)
        for name, workload in known.items()
    }
    return Catalog(MappingProxyType(services), MappingProxyType(kept))


def _others(
    name: str, compose: Iterable[Registration], own: Collection[Registration]
) -> Iterable[Registration]:
    """What belongs to the service of its Compose name beside what is registered as that."""
    if not own:
        return compose
    # Of two projects' `web` registrator calls one `web-80` that has several ports: it must not lose
    # them when another comes that has one. What SERVICE_NAME says stays apart.
    if not any(r.meta.get(META_SERVICE) == name for r in own):
        return ()
    return (r for r in compose if r.name == f"{name}-{r.port}")


def _same(old: T | None, new: T) -> T:
    return old if old is not None and old == new else new


def _service(
    name: str,
    domain: str,
    registrations: list[Registration],
    promised: list[tuple[Workload, ServedPort]],
    workloads: Mapping[str, Workload],
) -> Service:
    ports: dict[int, Protocol] = {}
    offers = [(r.port, r.protocol) for r in registrations] + [
        (p.port, Protocol(p.protocol)) for _, p in promised
    ]
    for number, protocol in offers:
        # Of two that say something, the first by id.
        ports[number] = agreed(ports.get(number), protocol)

    namespaces = [r.meta.get(META_NAMESPACE, "default") for r in registrations] + [
        w.namespace for w, _ in promised
    ]

    return Service(
        name=name,
        hostname=f"{name}.{domain}",
        ports=tuple(
            Port(number, protocol) for number, protocol in sorted(ports.items())
        ),
        endpoints=tuple(
            _endpoint(r, workloads)
            for r in registrations
            # Where the number is a TCP port, its datagram twin would only get connections.
            if r.address
            and (r.protocol is not Protocol.UDP or ports[r.port] is Protocol.UDP)
        ),
        namespace=namespaces[0],
    )


def _endpoint(
    registration: Registration, workloads: Mapping[str, Workload]
) -> Endpoint:
    meta = registration.meta
    workload = workloads.get(meta.get(META_WORKLOAD, ""))
    health = registration.health
    labels = {
        k: v for k, v in meta.items() if not k.startswith((META_PREFIX, "check_"))
    }
    labels |= dict(workload.labels) if workload else {}
    # Tags last: people write them for this purpose.
    labels |= {
        k: v for tag in registration.tags if (pair := _pair(tag)) for k, v in (pair,)
    }

    return Endpoint(
        address=registration.address,
        port=registration.port,
        id=registration.id,
        labels=MappingProxyType(labels),
        health=Health.UNHEALTHY
        if health and health.status != "passing"
        else Health.HEALTHY,
        workload=meta.get(META_WORKLOAD, ""),
        namespace=meta.get(META_NAMESPACE, "default"),
        service_account=meta.get(META_ACCOUNT) or meta.get(ACCOUNT_META, ""),
        gave_way=meta.get(META_ID_OF, ""),
    )


def _pair(tag: str) -> tuple[str, str] | None:
    for separator in "|=":
        key, found, value = tag.partition(separator)
        if found and key:
            return key, value.split(separator)[0]
    return None
