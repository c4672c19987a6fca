"""One number as TCP and as UDP: the TCP port is served as if there were no other, wherever the mesh
learns of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from meshes import as_dict, catalog, messages, service, sidecar, workload

from dockermesh.model import (
    EMPTY_CATALOG,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Workload,
)
from dockermesh.registrar.mapping import Registration
from dockermesh.registry.consul.convert import build_service, convert_entries
from dockermesh.registry.docker.catalog import build_catalog
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator, workload_ports

DOMAIN = "service.consul"
ORDERS = pytest.mark.parametrize("protocols", [("auto", "udp"), ("udp", "auto")])


def twin(project: str, protocols: Iterable[str], address: str = "10.0.0.1") -> Workload:
    own = replace(workload("web-1", address=address), name=f"{project}/web-1")
    served = tuple(ServedPort("web-8000", 8000, protocol) for protocol in protocols)
    return replace(own, ports=served, project=project)


def inbound_chains(state: MeshState, own: Workload) -> set[str]:
    translator = Translator()
    translator.update(state)
    proxy = Proxy(own.name, address=own.address, workload=own)
    listener = messages(translator.snapshot(proxy), "listeners")["virtualInbound"]
    return {
        chain.filters[-1].name
        for chain in listener.filter_chains
        if chain.filter_chain_match.destination_port.value == 8000
    }


@ORDERS
def test_a_workload_serves_the_tcp_port(protocols: tuple[str, str]) -> None:
    own = twin("shop", protocols)
    assert workload_ports(own) == (Port(8000, Protocol.AUTO),)
    assert inbound_chains(build_mesh(catalog(workloads=[own])), own)


def test_a_workload_of_datagrams_alone_serves_none() -> None:
    assert workload_ports(twin("shop", ["udp"])) == ()


@ORDERS
def test_while_it_is_away_its_service_has_the_tcp_port(
    protocols: tuple[str, str],
) -> None:
    state = build_mesh(catalog(workloads=[twin("shop", protocols)]))
    for name in ("web", "web-8000"):
        assert state.services[f"{name}.{DOMAIN}"].ports == (Port(8000, Protocol.AUTO),)


@ORDERS
def test_of_a_name_of_two_projects_each_has_the_tcp_port(
    protocols: tuple[str, str],
) -> None:
    pods = [twin("shop", protocols), twin("blog", protocols, "10.0.0.2")]
    shared = replace(
        service("web", port=8000, protocol=Protocol.AUTO),
        endpoints=tuple(Endpoint(w.address, 8000, workload=w.name) for w in pods),
    )
    state = build_mesh(catalog([shared], pods))
    assert state.services[f"web.shop.{DOMAIN}"].ports == (Port(8000, Protocol.AUTO),)


def registration(protocol: str) -> Registration:
    suffix = ":udp" if protocol == "udp" else ""
    identity = f"h:shop-web-1:8000{suffix}"
    meta = {"dockermesh-workload": "shop/web-1", "protocol": "http"}
    tags = ("udp",) if suffix else ()
    return Registration(identity, "web-8000", 8000, "10.0.0.1", tags, meta)


def test_docker_s_catalog_has_the_tcp_port_and_its_endpoint() -> None:
    found = build_catalog(
        [registration("tcp"), registration("udp")], [], EMPTY_CATALOG, domain=DOMAIN
    ).services[f"web-8000.{DOMAIN}"]
    assert found.ports == (Port(8000, Protocol.HTTP),)
    assert [e.id for e in found.endpoints] == ["h:shop-web-1:8000"]


def test_what_is_declared_of_the_number_is_not_the_datagrams() -> None:
    entries = [
        {
            "Node": {"Node": "n", "Address": "10.0.0.1"},
            "Service": {
                "ID": made.id,
                "Address": made.address,
                "Port": made.port,
                "Meta": dict(made.meta),
                "Tags": list(made.tags),
            },
        }
        for made in map(registration, ("udp", "tcp"))
    ]
    found = build_service("web-8000", convert_entries(entries).instances, domain=DOMAIN)
    assert found.ports == (Port(8000, Protocol.HTTP),)
    assert [e.id for e in found.endpoints] == ["h:shop-web-1:8000"]


def test_a_service_of_datagrams_takes_no_port_from_another_at_its_address() -> None:
    web = service("web", "10.0.0.1", port=8000)
    quic = service("quic", "10.0.0.1", port=8000, protocol=Protocol.UDP)
    translator = Translator()
    translator.update(build_mesh(catalog([web, quic])))
    own = replace(sidecar("web-1"), address="10.0.0.1", workload=None)
    assert "inbound|8000||" in str(as_dict(translator.snapshot(own))["clusters"])
    translator.update(build_mesh(catalog([web])))
    assert "inbound|8000||" in str(as_dict(translator.snapshot(own))["clusters"])
