"""Two Compose projects that both have a `db`: each calls its own, as without the mesh, and others
call both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from meshes import as_dict, catalog, edge, gateway

from dockermesh.model import (
    EMPTY_CATALOG,
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.model.contract import META_SERVICE, META_WORKLOAD
from dockermesh.registrar.mapping import Registration
from dockermesh.registry.consul.assembly import Assembly
from dockermesh.registry.consul.convert import Instance
from dockermesh.registry.docker.catalog import build_catalog
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator

DB = "db.service.consul"
ADDRESS = {"shop": "10.0.0.1", "blog": "10.0.0.2"}


PLAINTEXT = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: plain}
spec: {host: db, trafficPolicy: {tls: {mode: DISABLE}}}
"""


def pod(
    project: str, service: str = "db", *, name: str = "", port: int = 9080, **more: Any
) -> Workload:
    served = (ServedPort(name or service, port, "http"),)
    address = ADDRESS.get(project, "10.0.0.9")
    return Workload(
        id=f"{project}-{service}",
        name=f"{project}/{service}-1",
        ports=served,
        address=address,
        **more,
    )


def endpoint(project: str, service: str = "db", **more: Any) -> Endpoint:
    return Endpoint(
        ADDRESS.get(project, "10.0.0.9"),
        9080,
        workload=f"{project}/{service}-1",
        **more,
    )


def database(*endpoints: Endpoint) -> Service:
    return Service("db", DB, (Port(9080, Protocol.HTTP),), endpoints)


def two(
    *more: Endpoint, config: str = "", workloads: tuple[Workload, ...] = ()
) -> MeshState:
    known = (
        pod("shop"),
        pod("blog"),
        pod("shop", "web"),
        pod("blog", "web"),
        pod("third", "web"),
        *workloads,
    )
    services = [database(endpoint("shop"), endpoint("blog"), *more)]
    return build_mesh(catalog(services, known), config=edge(config) if config else None)


def caller(project: str) -> Proxy:
    own = pod(project, "web", port=8000)
    return Proxy(own.name, address=own.address, workload=own)


def told(state: MeshState, proxy: Proxy) -> dict[str, list[dict[str, Any]]]:
    translator = Translator()
    translator.update(state)
    return as_dict(translator.snapshot(proxy))


def called(state: MeshState, proxy: Proxy, name: str = "db") -> tuple[str, set[str]]:
    """The cluster that a name leads to, and the addresses of its endpoints."""
    resources = told(state, proxy)
    (host,) = [
        h
        for t in resources["routes"]
        if t["name"] == "9080"
        for h in t["virtualHosts"]
        if name in h["domains"]
    ]
    cluster = host["routes"][-1]["route"]["cluster"]
    (loads,) = [a for a in resources["endpoints"] if a["clusterName"] == cluster]
    found = [
        e["endpoint"]["address"]["socketAddress"]
        for group in loads["endpoints"]
        for e in group["lbEndpoints"]
    ]
    return cluster, {address["address"] for address in found}


@pytest.mark.parametrize(
    "name", ["db", DB, "db.default", "db.default.svc.cluster.local"]
)
@pytest.mark.parametrize("project", ["shop", "blog"])
def test_each_project_calls_its_own_by_every_name(project: str, name: str) -> None:
    cluster, addresses = called(two(), caller(project), name)
    assert (cluster, addresses) == (
        f"outbound|9080||db.{project}.service.consul",
        {ADDRESS[project]},
    )


def test_others_call_both_and_either_by_its_full_name() -> None:
    state = two()
    assert called(state, caller("third")) == (
        f"outbound|9080||{DB}",
        set(ADDRESS.values()),
    )
    for viewer in ("third", "shop"):
        assert called(state, caller(viewer), "db.blog.service.consul")[1] == {
            ADDRESS["blog"]
        }


def test_the_name_s_address_is_the_same_before_and_after_another_project_came() -> None:
    def answers(project: str) -> dict[str, str]:
        (listener,) = [
            x for x in told(two(), caller(project))["listeners"] if x["name"] == "dns"
        ]
        config = listener["listenerFilters"][0]["typedConfig"]["serverConfig"][
            "inlineDnsTable"
        ]["virtualDomains"]
        return {d["name"]: d["endpoint"]["addressList"]["address"][0] for d in config}

    state = two()
    alone = build_mesh(catalog([database(endpoint("shop"))], (pod("shop"),)))
    assert (
        answers("shop")["db"]
        == answers("third")["db"]
        == alone.vips[DB]
        == state.vips[DB]
    ), "apps may know it already"
    assert (
        answers("shop")["db.blog.service.consul"]
        == state.vips["db.blog.service.consul"]
    )
    listeners = [x["name"] for x in told(state, caller("shop"))["listeners"]]
    assert len(listeners) == len(set(listeners))


def test_what_joins_the_name_otherwise_is_part_of_all() -> None:
    """A process that joined, a Compose service whose SERVICE_NAME and account say so, and a
    registration without a proxy, where a rule wants such.
    """
    outside = Endpoint("10.0.0.7", 9080)
    joined = Endpoint("10.0.0.8", 9080, workload="joined/db-1")
    named = replace(endpoint("third", "database"), address="10.0.0.6")
    process = replace(pod("joined"), name="joined/db-1")
    workloads = (
        pod("third", "database", name="db", service_account="default"),
        process,
    )
    state = two(outside, joined, named, workloads=workloads, config=PLAINTEXT)
    others = {"10.0.0.6", "10.0.0.7", "10.0.0.8"}
    assert called(state, caller("shop"))[1] == {ADDRESS["shop"], *others}
    assert called(state, caller("blog"))[1] == {ADDRESS["blog"], *others}


def test_while_its_own_are_away_nobody_elses_is_called() -> None:
    known = (pod("shop"), pod("blog"), pod("shop", "web"))
    state = build_mesh(catalog([database(endpoint("blog"))], known))
    assert called(state, caller("shop")) == (
        "outbound|9080||db.shop.service.consul",
        {REFUSING[0]},
    )


def test_rules_for_the_name_are_rules_of_each() -> None:
    rules = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: db}
spec: {hosts: [db], http: [{timeout: 3s, route: [{destination: {host: db, subset: v1}}]}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: db}
spec: {host: db, subsets: [{name: v1, labels: {version: v1}}]}
"""
    marked = [endpoint(p, labels={"version": "v1"}) for p in ("shop", "blog")]
    known = (pod("shop"), pod("blog"), pod("shop", "web"))
    state = build_mesh(catalog([database(*marked)], known), config=edge(rules))
    assert called(state, caller("shop")) == (
        "outbound|9080|v1|db.shop.service.consul",
        {ADDRESS["shop"]},
    )


def test_a_projects_gateway_leads_to_its_own() -> None:
    rules = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: entry}
spec: {selector: {app: edge}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: entry}
spec: {hosts: ['*'], gateways: [entry], http: [{route: [{destination: {host: db}}]}]}
"""
    state = two(config=rules)
    proxy = gateway({"app": "edge"})
    own = replace(proxy.workload or pod("shop"), name="blog/gateway-1")
    routes = told(state, replace(proxy, workload=own))["routes"]
    assert (
        routes[0]["virtualHosts"][0]["routes"][0]["route"]["cluster"]
        == "outbound|9080||db.blog.service.consul"
    )


def test_the_identities_of_a_project_s_own_are_its_own() -> None:
    known = (
        pod("shop", service_account="shop-db"),
        pod("blog", service_account="blog-db"),
        pod("shop", "web"),
    )
    state = build_mesh(catalog([database(endpoint("shop"), endpoint("blog"))], known))
    assert state.services["db.shop.service.consul"].accounts == (
        ("default", "shop-db"),
    )
    assert state.services["db.blog.service.consul"].accounts == (
        ("default", "blog-db"),
    )
    assert state.services[DB].accounts == (("default", "blog-db"),), "of one alone"


def test_a_project_that_comes_and_goes_leaves_the_other_as_it_was() -> None:
    alone = catalog([database(endpoint("shop"))], (pod("shop"), pod("shop", "web")))
    first = build_mesh(alone)
    assert "db.shop.service.consul" not in first.services, (
        "one project alone needs none"
    )
    known = (pod("shop"), pod("shop", "web"), pod("blog"))
    both = Catalog(
        {DB: database(endpoint("shop"), endpoint("blog"))}, {w.name: w for w in known}
    )
    second = build_mesh(both, previous=first)
    third = build_mesh(replace(both, services=dict(both.services)), previous=second)
    assert (
        third.services["db.shop.service.consul"]
        is second.services["db.shop.service.consul"]
    )
    assert build_mesh(alone, previous=third).names == first.names


def test_services_of_several_ports_are_a_project_s_own_under_each_name() -> None:
    """registrator calls them `web-80` and `web-443`; Compose's name stands for all of them."""

    def many(project: str) -> Workload:
        served = tuple(ServedPort(f"web-{port}", port, "http") for port in (80, 443))
        return Workload(
            id=project, name=f"{project}/web-1", ports=served, address=ADDRESS[project]
        )

    def listed(name: str, *ports: int) -> Service:
        ends = tuple(
            Endpoint(ADDRESS[p], port, workload=f"{p}/web-1")
            for port in ports
            for p in ("shop", "blog")
        )
        return Service(
            name,
            f"{name}.service.consul",
            tuple(Port(p, Protocol.HTTP) for p in ports),
            ends,
        )

    services = [listed("web", 80, 443), listed("web-80", 80), listed("web-443", 443)]
    state = build_mesh(catalog(services, (many("shop"), many("blog"))))
    for name, ports in (("web", {80, 443}), ("web-80", {80}), ("web-443", {443})):
        own = state.services[f"{name}.shop.service.consul"]
        assert {p.number for p in own.ports} == ports
        assert {e.address for e in own.endpoints} == {ADDRESS["shop"]}


@pytest.mark.parametrize("registry", ["docker", "consul"])
def test_of_one_name_each_project_has_its_own_however_many_ports_it_has(
    registry: str,
) -> None:
    """registrator calls one `web-80` and `web-443`, and the other one `web`."""
    ports = {"shop": (80, 443), "blog": (8000,)}
    made = [
        Registration(
            f"h:{project}-web-1:{port}",
            f"web-{port}" if len(numbers) > 1 else "web",
            port,
            ADDRESS[project],
            meta={
                META_WORKLOAD: f"{project}/web-1",
                META_SERVICE: "web",
            },
        )
        for project, numbers in ports.items()
        for port in numbers
    ]
    pods = tuple(
        Workload(
            id=project,
            name=f"{project}/web-1",
            address=address,
            ports=tuple(
                ServedPort(r.name, r.port) for r in made if r.address == address
            ),
        )
        for project, address in ADDRESS.items()
        if project in ports
    )

    if registry == "docker":
        known = build_catalog(made, pods, EMPTY_CATALOG, domain="service.consul")
    else:
        assembly = Assembly("service.consul")
        for name in {r.name for r in made}:
            own = [r for r in made if r.name == name]
            found = tuple(
                Instance(
                    Endpoint(r.address, r.port, r.id, workload=r.meta[META_WORKLOAD]),
                    Protocol.AUTO,
                    "web",
                )
                for r in own
            )
            assembly.put(name, found)
        known = catalog(assembly.services().values(), pods)

    state = build_mesh(known)
    for project, numbers in ports.items():
        own_service = state.services[f"web.{project}.service.consul"]
        assert {p.number for p in own_service.ports} == {*numbers}
        assert {(e.address, e.port) for e in own_service.endpoints} == {
            (ADDRESS[project], port) for port in numbers
        }
