"""Names, virtual addresses and stand-ins: what `build_mesh` makes of a catalog."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from meshes import catalog, service, workload

from dockermesh.model import EMPTY_CATALOG, Health, ServedPort, Workload
from dockermesh.registrar.mapping import Registration
from dockermesh.registry.docker.catalog import build_catalog
from dockermesh.translate.mesh.stand_in import REFUSING
from dockermesh.translate.mesh.state import build_mesh, host_names
from dockermesh.translate.mesh.vips import allocate_vips


def test_a_service_is_called_by_all_its_names() -> None:
    state = build_mesh(
        catalog([service("reviews", "10.0.0.1", aliases=("Reviews-V1",))])
    )
    for name in (
        *("reviews", "reviews.service.consul", "reviews.service", "reviews.default"),
        *("reviews.default.svc", "reviews.default.svc.cluster.local", "reviews-v1"),
    ):
        assert state.names[name] == "reviews.service.consul", name


def test_a_hostname_is_never_taken_by_an_alias() -> None:
    thief = service("a-thief", aliases=("reviews.service.consul", "reviews"))
    state = build_mesh(catalog([thief, service("reviews")]))
    assert state.names["reviews.service.consul"] == "reviews.service.consul"


def test_a_contested_name_goes_to_the_same_service_in_any_order() -> None:
    services = [service(name, aliases=("shared",)) for name in ("a", "b", "c", "d")]
    owners = set()
    for seed in range(20):
        random.Random(seed).shuffle(services)
        owners.add(build_mesh(catalog(services)).names["shared"])
    assert owners == {"a.service.consul"}


def test_names_are_listed_once_and_in_lower_case() -> None:
    names = host_names(service("Reviews", aliases=("REVIEWS", "reviews")))
    assert len(names) == len(set(names))
    assert names == [name.lower() for name in names]


def test_vips_are_a_function_of_the_names() -> None:
    hosts = [f"s{n}.service.consul" for n in range(500)]
    shuffled = random.Random(1).sample(hosts, len(hosts))
    assert allocate_vips(hosts) == allocate_vips(shuffled)
    assert len(set(allocate_vips(hosts).values())) == len(hosts)
    assert all(vip.startswith("240.240.") for vip in allocate_vips(hosts).values())


def test_a_new_service_hardly_moves_others() -> None:
    hosts = [f"s{n}.service.consul" for n in range(1000)]
    before, after = allocate_vips(hosts), allocate_vips([*hosts, "new.service.consul"])
    assert sum(before[host] != after[host] for host in hosts) <= 2


def test_more_services_than_addresses_are_refused() -> None:
    with pytest.raises(ValueError, match="more virtual addresses"):
        allocate_vips(str(n) for n in range(255 * 254 + 1))


def test_a_stopped_app_keeps_its_service() -> None:
    """Its pod is there, its endpoints are not: something stands in that refuses at once, so that
    callers try again.
    """
    state = build_mesh(catalog([], [workload("details-1", 9080)]))
    standing_in = state.services["details.service.consul"]
    (endpoint,) = standing_in.endpoints
    assert (endpoint.address, endpoint.port, endpoint.service_port) == (
        *REFUSING,
        9080,
    )
    assert endpoint.health is Health.UNHEALTHY
    assert not endpoint.takes_mtls


def test_a_stand_in_has_the_identity_of_what_it_stands_for() -> None:
    app = replace(
        workload("details-1", 9080),
        namespace="shop",
        service_account="bookinfo-details",
    )
    standing_in = build_mesh(catalog([], [app])).services["details.service.consul"]
    assert standing_in.namespace == "shop"
    assert [(e.namespace, e.service_account) for e in standing_in.endpoints] == [
        ("shop", "bookinfo-details")
    ]


def test_a_real_endpoint_takes_the_place_of_the_stand_in() -> None:
    app = workload("details-1", 9080)
    before = build_mesh(catalog([], [app]))
    real = service("details", "172.28.0.9")
    after = build_mesh(catalog([real], [app]), previous=before)
    assert [e.address for e in after.services["details.service.consul"].endpoints] == [
        "172.28.0.9"
    ]
    gone = build_mesh(catalog([replace(real, endpoints=())], [app]), previous=after)
    assert gone.services["details.service.consul"].endpoints[0].port == 1


def test_what_did_not_change_is_the_same_object() -> None:
    app, details = workload("ratings-1", 9080), service("details", "10.0.0.1")
    before = build_mesh(catalog([details], [app]))
    after = build_mesh(catalog([details], [app]), previous=before)
    assert after.names is before.names
    assert after.vips is before.vips
    assert all(
        after.services[host] is before.services[host] for host in before.services
    )


def test_endpoints_have_their_workloads_labels_and_the_registrys_count_more() -> None:
    """Consul knows tags and meta only; subsets select by Compose's labels, too."""
    known = workload("reviews-1", 9080, labels={"version": "v9", "tier": "back"})
    found = service("reviews", "10.0.0.2")
    before = build_mesh(catalog([found], [known]))
    (endpoint,) = before.services[found.hostname].endpoints
    assert dict(endpoint.labels) == {"version": "v1", "tier": "back"}
    assert (
        build_mesh(catalog([found], [known]), previous=before)
        .services[found.hostname]
        .endpoints[0]
        is endpoint
    )


def names(*workloads: Workload) -> dict[str, str]:
    """What aliases mean where `reviews`, `ratings` and `db` are services."""
    found = [service(name, "10.0.0.2") for name in ("reviews", "ratings", "db")]
    return dict(build_mesh(catalog(found, workloads)).names)


def test_the_names_that_docker_has_for_a_service_are_names_of_the_mesh() -> None:
    """Network aliases and `container_name`, so that calls by them are routed and encrypted as all
    others.
    """
    one, two = (
        workload(f"reviews-{n}", 9080, aliases=("backend", "Old-Reviews"))
        for n in (1, 2)
    )
    found = names(one, two)
    assert found["backend"] == found["old-reviews"] == "reviews.service.consul"


@pytest.mark.parametrize("alias", ["db", "backend", "api.example.com", "*", ""])
def test_an_alias_that_means_something_else_stays_dockers(alias: str) -> None:
    """Another service's name; one that two services have, which Docker answers with both; one of
    the internet.
    """
    before = names(workload("reviews-1", 9080))
    after = names(
        workload("reviews-1", 9080, aliases=(alias,)),
        workload("ratings-1", 9080, aliases=("backend",)),
    )
    assert {n: h for n, h in after.items() if n != "backend"} == before
    assert after.get("backend") == (
        "ratings.service.consul" if alias != "backend" else None
    )


def test_an_alias_that_stays_keeps_the_service_the_same_object() -> None:
    found = [service("reviews", "10.0.0.2")]
    known = workload("reviews-1", 9080, aliases=("backend",))
    before = build_mesh(catalog(found, [known]))
    after = build_mesh(
        catalog([*found, service("db", "10.0.0.3")], [known]), previous=before
    )
    assert (
        after.services["reviews.service.consul"]
        is before.services["reviews.service.consul"]
    )
    gone = build_mesh(catalog(found, [replace(known, aliases=())]), previous=after)
    assert "backend" not in gone.names


@pytest.mark.parametrize(
    "name",
    ["google.com", "db.prod.svc.cluster.local", "consul", "control-plane", "db.prod"],
)
def test_no_workload_serves_another_host_or_the_meshs_own_name(name: str) -> None:
    """By its `SERVICE_NAME`, its Compose service or an alias of that."""
    served = (ServedPort(name, 80, "http"),)
    evil = Workload(id="e", name="evil/web-1", ports=served, aliases=(name,))
    named = Workload(id="f", name=f"evil/{name}-1", ports=(ServedPort("x", 80),))
    state = build_mesh(catalog((), (evil, named)))
    assert set(state.services) == {"web.service.consul", "x.service.consul"}
    assert name not in state.names
    docker = build_catalog(
        [Registration("i", name, 80, "10.0.0.9")],
        (evil, named),
        EMPTY_CATALOG,
        domain="service.consul",
    )
    assert set(docker.services) == {"x.service.consul"}
