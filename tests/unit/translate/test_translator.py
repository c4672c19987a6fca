"""What a change touches, and what not; and that equal states give equal bytes."""

from __future__ import annotations

import random
from dataclasses import replace

from meshes import (
    catalog,
    edge,
    gateway,
    mesh,
    messages,
    service,
    sidecar,
    versions,
    workload,
)

from dockermesh.model import Health, Port, Protocol
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import build_mesh
from dockermesh.translate.translator import Translator

GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front}
spec:
  hosts: ["*"]
  gateways: [front]
  http: [{route: [{destination: {host: reviews, port: {number: 9080}}}]}]
"""
EDGE = {"istio": "ingressgateway"}


def test_a_change_of_endpoints_touches_eds_alone() -> None:
    translator = Translator()
    one, other = service("reviews", "10.0.0.1"), service("ratings", "10.0.0.2")
    before = mesh(one, other)
    assert translator.update(before)
    old = translator.snapshot(sidecar("reviews-1", 9080))
    work = replace(translator.counters)

    moved = service("reviews", "10.0.0.1", "10.0.0.3")
    assert translator.update(build_mesh(catalog([moved, other]), previous=before))
    new = translator.snapshot(sidecar("reviews-1", 9080))

    assert new.endpoints.version != old.endpoints.version
    for field in ("clusters", "listeners", "routes"):
        assert getattr(new, field) is getattr(old, field), field
    assert translator.counters.services == work.services + 1
    assert translator.counters.assignments == work.assignments + 1
    assert (translator.counters.tables, translator.counters.inbound) == (
        work.tables,
        work.inbound,
    )


def test_an_unchanged_state_is_no_change() -> None:
    translator = Translator()
    services = [service("reviews", "10.0.0.1"), service("ratings", "10.0.0.2")]
    before = build_mesh(catalog(services))
    translator.update(before)
    work = replace(translator.counters)
    assert not translator.update(build_mesh(catalog(services), previous=before))
    assert translator.counters == work


def test_an_equal_service_sends_nothing() -> None:
    """The registry read it anew; only an object is different."""
    translator = Translator()
    before = mesh(service("reviews", "10.0.0.1"))
    translator.update(before)
    old = versions(translator.snapshot(sidecar()))
    translator.update(
        build_mesh(catalog([service("reviews", "10.0.0.1")]), previous=before)
    )
    assert versions(translator.snapshot(sidecar())) == old


def test_equal_states_give_equal_bytes_in_any_order() -> None:
    """Replicas of the control plane agree, and one that restarted sends nothing (F2)."""
    services = [
        service(f"s{n}", f"10.0.0.{n + 1}", port=9080 + n % 3) for n in range(20)
    ]
    seen = set()
    for seed in range(5):
        random.Random(seed).shuffle(services)
        translator = Translator()
        translator.update(mesh(*services, config=GATEWAY.replace("reviews", "s1")))
        for proxy in (sidecar("s1-1", 9081), gateway(EDGE)):
            seen.add(
                (
                    proxy.kind,
                    tuple(sorted(versions(translator.snapshot(proxy)).items())),
                )
            )
    assert len(seen) == 2


def test_a_grown_mesh_equals_one_that_was_so_from_the_start() -> None:
    translator, services = Translator(), []
    state = mesh()
    for n in range(8):
        services.append(service(f"s{n}", f"10.0.0.{n + 1}"))
        state = build_mesh(catalog(services), previous=state)
        translator.update(state)
    gone = [s for s in services if s.name != "s3"]
    translator.update(build_mesh(catalog(gone), previous=state))
    fresh = Translator()
    fresh.update(mesh(*gone))
    assert versions(translator.snapshot(sidecar("s1-1", 9080))) == versions(
        fresh.snapshot(sidecar("s1-1", 9080))
    )


def test_replicas_share_their_resources() -> None:
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.1", "10.0.0.2")))
    one, two = (
        sidecar("reviews-1", 9080),
        replace(sidecar("reviews-2", 9080), address="10.0.0.2"),
    )
    assert translator.snapshot(one) is translator.snapshot(two)


def test_the_only_http_port_is_also_reached_on_port_80() -> None:
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.1")))
    tables = messages(translator.snapshot(sidecar()), "routes")
    for table in ("80", "9080"):
        hosts = {d: h for h in tables[table].virtual_hosts for d in h.domains}
        assert (
            hosts["reviews"].routes[0].route.cluster
            == "outbound|9080||reviews.service.consul"
        )


def test_port_80_stays_the_services_own() -> None:
    translator = Translator()
    ports = (Port(80, Protocol.HTTP), Port(9080, Protocol.HTTP))
    translator.update(mesh(service("reviews", "10.0.0.1", ports=ports)))
    tables = messages(translator.snapshot(sidecar()), "routes")
    hosts = {d: h for h in tables["80"].virtual_hosts for d in h.domains}
    assert (
        hosts["reviews"].routes[0].route.cluster
        == "outbound|80||reviews.service.consul"
    )


def test_two_http_ports_leave_port_80_alone() -> None:
    translator = Translator()
    ports = (Port(8080, Protocol.HTTP), Port(9080, Protocol.HTTP))
    translator.update(mesh(service("reviews", "10.0.0.1", ports=ports)))
    assert "80" not in messages(translator.snapshot(sidecar()), "routes")


def test_no_domain_stands_twice_in_a_table() -> None:
    """Envoy refuses the whole table then."""
    clash = [
        service(n, "10.0.0.1", aliases=("shared", "Shared", "b", "a.service"))
        for n in ("a", "b", "c")
    ]
    translator = Translator()
    translator.update(mesh(*clash))
    for name, table in messages(translator.snapshot(sidecar()), "routes").items():
        domains = [d.lower() for h in table.virtual_hosts for d in h.domains]
        assert len(domains) == len(set(domains)), name


def test_unknown_destinations_pass_or_are_refused() -> None:
    for settings, cluster, code in (
        (None, "PassthroughCluster", 0),
        (MeshSettings(allow_any=False), "", 502),
    ):
        translator = Translator()
        translator.update(mesh(service("reviews", "10.0.0.1"), settings=settings))
        rest = messages(translator.snapshot(sidecar()), "routes")["9080"].virtual_hosts[
            -1
        ]
        assert list(rest.domains) == ["*"]
        (route,) = (r for r in rest.routes if r.name in ("allow_any", "block_all"))
        assert (route.route.cluster, route.direct_response.status) == (cluster, code)


def test_unhealthy_endpoints_are_used_only_where_there_is_no_other() -> None:
    whole = service("reviews", "10.0.0.1", "10.0.0.2")
    sick = tuple(replace(e, health=Health.UNHEALTHY) for e in whole.endpoints)
    statuses = []
    for endpoints in ((whole.endpoints[0], sick[1]), sick):
        translator = Translator()
        translator.update(mesh(replace(whole, endpoints=endpoints)))
        (assignment,) = messages(translator.snapshot(sidecar()), "endpoints").values()
        statuses.append([e.health_status for e in assignment.endpoints[0].lb_endpoints])
    assert statuses == [
        [1, 2],
        [0, 0],
    ]  # HEALTHY and UNHEALTHY; then UNKNOWN, which is tried


def test_a_gateway_serves_what_is_bound_to_it() -> None:
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.1"), config=GATEWAY))
    snapshot = translator.snapshot(gateway(EDGE))
    assert set(messages(snapshot, "listeners")) == {"0.0.0.0_80"}
    (table,) = messages(snapshot, "routes").values()
    assert table.name == "http.80"
    assert (
        table.virtual_hosts[0].routes[0].route.cluster
        == "outbound|9080||reviews.service.consul"
    )
    assert messages(translator.snapshot(gateway({"istio": "other"})), "listeners") == {}


def test_a_gateway_is_translated_again_only_when_its_config_changes() -> None:
    translator, services = Translator(), [service("reviews", "10.0.0.1")]
    config = edge(GATEWAY)
    state = build_mesh(catalog(services), config=config)
    translator.update(state)
    translator.snapshot(gateway(EDGE))
    state = build_mesh(
        catalog([service("reviews", "10.0.0.7")]), config=config, previous=state
    )
    translator.update(state)
    translator.snapshot(gateway(EDGE))
    assert translator.counters.gateways == 1
    translator.update(
        build_mesh(
            catalog(state.services.values()), config=edge(GATEWAY), previous=state
        )
    )
    translator.snapshot(gateway(EDGE))
    assert translator.counters.gateways == 2


def test_an_inbound_listener_has_no_address_of_the_replica() -> None:
    own = workload("reviews-1", 9080, address="172.28.77.77")
    translator = Translator()
    translator.update(build_mesh(catalog([service("reviews", "10.0.0.1")], [own])))
    listener = messages(
        translator.snapshot(replace(sidecar("reviews-1", 9080), workload=own)),
        "listeners",
    )
    assert "172.28.77.77" not in str(listener["virtualInbound"])
