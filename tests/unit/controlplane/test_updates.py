"""What of the registry and the config changed, in Istio's words, and how long it took."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from dockermesh.controlplane.updates import Updates, catalog_changes
from dockermesh.model import Catalog, Endpoint, Port, Protocol, Service


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def service(name: str, *addresses: str) -> Service:
    endpoints = tuple(Endpoint(address, 80) for address in addresses)
    host = f"{name}.service.consul"
    return Service(name, host, (Port(80, Protocol.HTTP),), endpoints)


def catalog(*services: Service, degraded: str = "") -> Catalog:
    return Catalog({s.hostname: s for s in services}, {}, degraded)


A, B = service("a", "192.0.2.1"), service("b", "192.0.2.2")


def test_endpoints_alone_are_told_from_services() -> None:
    more = replace(A, endpoints=service("a", "192.0.2.1", "192.0.2.9").endpoints)
    ports = replace(B, ports=(Port(81, Protocol.TCP),))
    before = catalog(A, B)
    assert catalog_changes(before, catalog(more, B)) == Counter(eds=1)
    assert catalog_changes(before, catalog(A, ports)) == Counter(svc=1)
    assert catalog_changes(before, catalog(A)) == Counter(svcdelete=1)
    assert catalog_changes(catalog(A), before) == Counter(svc=1)
    assert catalog_changes(before, catalog(more, ports)) == Counter(eds=1, svc=1)
    assert catalog_changes(before, catalog(A, replace(B))) == Counter()
    assert catalog_changes(before, before) == Counter()


def test_reasons_are_counted_by_what_changed() -> None:
    updates = Updates()
    before = catalog(A)
    updates.take_catalog(before, catalog(A, B))
    more = replace(A, endpoints=B.endpoints)
    updates.take_catalog(before, replace(before, services={A.hostname: more}))
    updates.take_config()
    updates.take_keys()
    assert updates.triggers["service"] == updates.triggers["endpoint"] == 1
    assert updates.triggers["config"] == updates.triggers["global"] == 1
    assert updates.inbound == Counter(svc=1, eds=1, config=1)


def test_time_runs_from_the_first_of_the_changes_that_are_gathered() -> None:
    clock = Clock()
    updates = Updates(clock=clock)
    updates.take_config()
    clock.now += 0.05
    updates.take_config()
    updates.take_catalog(catalog(A), catalog(A))
    clock.now += 0.3
    changes = updates.gather()
    assert changes == {"config": 100.0, "registry": 100.05}
    updates.told(changes)
    assert (updates.gathered.count, round(updates.gathered.total, 6)) == (1, 0.35)
    assert updates.gather() == {}


def test_the_registry_lags_while_it_cannot_be_followed() -> None:
    clock = Clock()
    updates = Updates(clock=clock)
    updates.take_catalog(catalog(), catalog(A))
    assert updates.lag == 0
    away = catalog(A, degraded="Consul does not answer")
    updates.take_catalog(catalog(A), away)
    clock.now += 7
    updates.take_catalog(away, away)
    assert updates.lag == 7
    updates.take_catalog(away, catalog(A))
    assert updates.lag == 0
