"""What services' host names end with is a setting, and everything that makes a name has it."""

from __future__ import annotations

import pytest

from dockermesh.model import (
    EMPTY_CATALOG,
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, build_mesh

SETTINGS = MeshSettings(service_domain="service.acme")
HOST = "reviews.service.acme"


def workload(name: str, **more: object) -> Workload:
    ports = (ServedPort("reviews", 9080, "http"),)
    base = {"id": name, "name": name, "service": "reviews", "ports": ports} | more
    return Workload(**base)  # type: ignore[arg-type]


def mesh(*workloads: Workload, is_registered: bool = True) -> MeshState:
    endpoint = Endpoint("10.0.0.1", 9080, workload="shop/reviews-1")
    service = Service("reviews", HOST, (Port(9080, Protocol.HTTP),), (endpoint,))
    catalog = Catalog(
        {HOST: service} if is_registered else {}, {w.name: w for w in workloads}
    )
    return build_mesh(catalog, settings=SETTINGS)


def test_no_stand_in_appears_beside_the_service() -> None:
    state = mesh(workload("shop/reviews-1"))
    assert set(state.services) == {HOST}
    assert state.names["reviews"] == HOST
    assert not [name for name in state.names if name.endswith("service.consul")]


def test_what_stands_in_for_a_stopped_service_has_its_name() -> None:
    state = mesh(workload("shop/reviews-1"), is_registered=False)
    assert set(state.services) == {HOST}
    assert state.services[HOST].name == "reviews"


def test_the_short_name_is_the_services_when_it_comes_back() -> None:
    away = mesh(workload("shop/reviews-1"), is_registered=False)
    back = mesh(workload("shop/reviews-1"))
    assert away.vips == back.vips


def test_projects_with_the_same_service_have_theirs_below_the_domain() -> None:
    state = mesh(workload("shop/reviews-1"), workload("blog/reviews-1"))
    assert set(state.services) == {
        HOST,
        "reviews.shop.service.acme",
        "reviews.blog.service.acme",
    }


def test_aliases_are_those_of_the_service_below_the_domain() -> None:
    state = mesh(workload("shop/reviews-1", aliases=("stars",)))
    assert state.names["stars"] == HOST


def test_the_egress_gateway_is_below_the_domain() -> None:
    labels = {"istio": "egressgateway"}
    gateway = workload(
        "shop/istio-egressgateway-1",
        kind=WorkloadKind.GATEWAY,
        labels=labels,
        ports=(),
        address="10.0.0.9",
    )
    state = mesh(gateway, is_registered=False)
    assert set(state.services) == {"istio-egressgateway.service.acme"}


@pytest.mark.parametrize("domain", ["service.consul", "service.mesh"])
def test_the_domain_stays_while_nothing_says_otherwise(domain: str) -> None:
    first = build_mesh(EMPTY_CATALOG, settings=MeshSettings(service_domain=domain))
    catalog = Catalog({}, {"shop/reviews-1": workload("shop/reviews-1")})
    assert set(build_mesh(catalog, previous=first).services) == {f"reviews.{domain}"}
