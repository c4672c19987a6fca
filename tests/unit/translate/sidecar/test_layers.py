"""What one more service costs where many services serve equal ports, in work and not in time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meshes import catalog, messages, service, sidecar

from dockermesh.model import Service
from dockermesh.translate.envoy.names import VIRTUAL_INBOUND, inbound_cluster
from dockermesh.translate.envoy.workload_metadata import HOST, METADATA
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds.snapshot import ResourceSet, Snapshot

MANY = 40
INBOUND = inbound_cluster(9080)


def services(count: int = MANY) -> list[Service]:
    return [service(f"s{n}", f"10.0.0.{n + 1}") for n in range(count)]


def told(translator: Translator, count: int = MANY) -> list[Snapshot]:
    return [translator.snapshot(sidecar(f"s{n}-1", 9080)) for n in range(count)]


def follow(translator: Translator, listed: list[Service]) -> None:
    translator.update(build_mesh(catalog(listed), previous=translator.mesh))


def host(snapshot: Snapshot) -> str:
    cluster = messages(snapshot, "clusters")[INBOUND]
    return str(cluster.metadata.filter_metadata[METADATA][HOST])


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ResourceSet]]:
    """The sets that are made, in order."""
    found: list[ResourceSet] = []
    make = ResourceSet.__init__

    def counted(self: ResourceSet, *args: object, **kwargs: object) -> None:
        found.append(self)
        make(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(ResourceSet, "__init__", counted)
    yield found


def test_services_on_equal_ports_differ_in_the_clusters_that_name_them_alone() -> None:
    translator = Translator()
    follow(translator, services())
    snapshots = told(translator)

    assert [host(one) for one in snapshots] == [
        f"s{n}.service.consul" for n in range(MANY)
    ]
    first, second = snapshots[:2]
    assert first.listeners.get(VIRTUAL_INBOUND) is not None
    assert {id(one.listeners) for one in snapshots} == {id(first.listeners)}
    different = [
        name
        for name in first.clusters
        if first.clusters.get(name) is not second.clusters.get(name)
    ]
    assert different == [INBOUND]
    assert translator.counters.inbound == 1


def test_a_service_more_makes_one_set_for_each_that_is_there(
    made: list[ResourceSet],
) -> None:
    translator = Translator()
    follow(translator, services())
    told(translator)
    made.clear()

    follow(translator, services(MANY + 1))
    told(translator)
    of_mesh = 10
    assert MANY <= len(made) <= MANY + of_mesh
    assert translator.counters.inbound == 1


def test_what_was_made_for_services_that_are_gone_is_forgotten() -> None:
    translator = Translator()
    follow(translator, services())
    told(translator)
    for count in (2, 1):
        follow(translator, services(count))
        told(translator, count)

    (kept,) = translator._layers._made.values()
    assert len(kept.clusters) <= 2
    (layer,) = translator._layers._layers.values()
    assert len(layer.clusters) <= 2
