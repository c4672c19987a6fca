"""VirtualServices on sidecars, each of Istio's documented traps as a test."""

from __future__ import annotations

from typing import Any

import pytest
from meshes import as_dict, catalog, edge, mesh, service, sidecar

from dockermesh.model import Port, Protocol
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.routes.header_operations import escape
from dockermesh.translate.translator import Translator

REVIEWS = "reviews.service.consul"
SUBSETS = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
"""


def virtual_service(
    http: str, *, name: str = "reviews", hosts: str = "[reviews]", more: str = ""
) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}}}
spec:
  hosts: {hosts}
  http: {http}
{more}
"""


def told(
    state: MeshState, proxy: Proxy | None = None
) -> dict[str, list[dict[str, Any]]]:
    translator = Translator()
    translator.update(state)
    return as_dict(translator.snapshot(proxy or sidecar("reviews-1", 9080)))


def hosts(
    state: MeshState, table: str = "9080", proxy: Proxy | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The routes of a table by domain."""
    found = next(
        (t for t in told(state, proxy)["routes"] if t["name"] == table),
        {"virtualHosts": []},
    )
    return {
        domain: host.get("routes", [])
        for host in found["virtualHosts"]
        for domain in host["domains"]
    }


def reviews(http: str, *services: Any, config: str = "") -> list[dict[str, Any]]:
    listed = services or (
        service("reviews", "10.0.0.1", "10.0.0.2"),
        service("ratings", "10.0.0.3"),
    )
    return hosts(
        mesh(
            *listed,
            config="---".join((virtual_service(http), SUBSETS, config or SUBSETS)),
        )
    )[REVIEWS]


def test_rules_are_tried_in_order_and_nothing_follows_a_catch_all() -> None:
    routes = reviews(
        "[{match: [{uri: {exact: /a}}, {uri: {prefix: /b}}], route: [{destination: {host: reviews,"
        " subset: v2}}]}, {route: [{destination: {host: reviews, subset: v1}}]}, {route:"
        " [{destination: {host: ratings}}]}]"
    )
    assert [r["match"] for r in routes] == [
        {"path": "/a"},
        {"prefix": "/b"},
        {"prefix": "/"},
    ]
    assert [r["route"]["cluster"] for r in routes] == [
        f"outbound|9080|v2|{REVIEWS}",
        f"outbound|9080|v2|{REVIEWS}",
        f"outbound|9080|v1|{REVIEWS}",
    ]


def test_rules_replace_the_default_route_on_every_http_port() -> None:
    both = service(
        "reviews",
        "10.0.0.1",
        ports=(Port(9080, Protocol.HTTP), Port(9081, Protocol.HTTP)),
    )
    state = mesh(
        both,
        config=virtual_service(
            "[{match: [{uri: {exact: /a}}], route: [{destination: {host: reviews}}]}]"
        ),
    )
    for port in ("9080", "9081"):
        routes = hosts(state, port)[REVIEWS]
        assert [(r["match"], r["route"]["cluster"]) for r in routes] == [
            ({"path": "/a"}, f"outbound|{port}||{REVIEWS}")
        ]


def test_a_rule_for_another_port_leaves_this_one_at_its_default() -> None:
    routes = reviews(
        "[{match: [{port: 1234}], route: [{destination: {host: ratings}}]}]"
    )
    assert [r["route"]["cluster"] for r in routes] == [f"outbound|9080||{REVIEWS}"]


def test_naming_a_gateway_drops_sidecars_unless_mesh_is_listed() -> None:
    rule = "[{route: [{destination: {host: ratings}}]}]"
    listed = (service("reviews", "10.0.0.1"), service("ratings", "10.0.0.3"))
    alone = hosts(mesh(*listed, config=virtual_service(rule, more="  gateways: [gw]")))[
        REVIEWS
    ]
    both = hosts(
        mesh(*listed, config=virtual_service(rule, more="  gateways: [gw, mesh]"))
    )[REVIEWS]
    assert alone[0]["route"]["cluster"] == f"outbound|9080||{REVIEWS}"
    assert both[0]["route"]["cluster"] == "outbound|9080||ratings.service.consul"


def test_source_labels_choose_the_proxies_that_get_a_rule() -> None:
    state = mesh(
        service("reviews", "10.0.0.1"),
        service("ratings", "10.0.0.3"),
        config=virtual_service(
            "[{match: [{sourceLabels: {app: web}}], route: [{destination: {host: ratings}}]}]"
        ),
    )
    web = hosts(state, proxy=Proxy(id="web", labels={"app": "web"}))[REVIEWS]
    other = hosts(state, proxy=Proxy(id="other", labels={"app": "batch"}))[REVIEWS]
    assert web[0]["route"]["cluster"] == "outbound|9080||ratings.service.consul"
    assert other[0]["route"]["cluster"] == f"outbound|9080||{REVIEWS}"


def test_the_oldest_of_two_rules_for_a_host_has_it_whatever_their_order() -> None:
    old, new = (
        f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, creationTimestamp: "{created}"}}
spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: {name}}}}}]}}]}}
"""
        for name, created in (
            ("older", "2019-01-01T00:00:00Z"),
            ("a-newer", "2020-01-01T00:00:00Z"),
        )
    )
    for config in (f"{old}---{new}", f"{new}---{old}"):
        routes = hosts(mesh(service("reviews", "10.0.0.1"), config=config))[REVIEWS]
        assert [r["route"]["cluster"] for r in routes] == [
            "outbound|9080||older.default"
        ]


def test_a_host_of_no_service_is_routed_on_port_80_alone() -> None:
    state = mesh(
        service("reviews", "10.0.0.1"),
        config=virtual_service(
            "[{route: [{destination: {host: reviews}}]}]", hosts="[nobody.example.com]"
        ),
    )
    assert "nobody.example.com" in hosts(state, "80")
    assert "nobody.example.com" not in hosts(state, "9080")


def test_the_most_specific_host_has_a_service() -> None:
    wild = virtual_service(
        "[{route: [{destination: {host: wild.x}}]}]",
        name="a-wild",
        hosts='["*.service.consul"]',
    )
    exact = virtual_service(
        "[{route: [{destination: {host: exact.x}}]}]", name="b-exact"
    )
    state = mesh(
        service("reviews", "10.0.0.1"),
        service("ratings", "10.0.0.2"),
        config=f"{wild}---{exact}",
    )
    found = hosts(state)
    assert found[REVIEWS][0]["route"]["cluster"] == "outbound|9080||exact.x"
    assert (
        found["ratings.service.consul"][0]["route"]["cluster"]
        == "outbound|9080||wild.x"
    )


def test_weights_are_relative_and_zero_is_left_out() -> None:
    targets = (
        "{destination: {host: reviews, subset: v1}, weight: 1}, {destination: {host: reviews,"
        " subset: v2}, weight: 3}, {destination: {host: ratings}, weight: 0}"
    )
    weighted = reviews(f"[{{route: [{targets}]}}]")[0]["route"]["weightedClusters"][
        "clusters"
    ]
    assert [(c["name"].split("|")[2], c["weight"]) for c in weighted] == [
        ("v1", 1),
        ("v2", 3),
    ]
    single = reviews(
        "[{route: [{destination: {host: reviews, subset: v1}, weight: 7}]}]"
    )[0]["route"]
    assert single["cluster"] == f"outbound|9080|v1|{REVIEWS}"


def test_a_missing_header_fulfils_without_headers() -> None:
    match = "{withoutHeaders: {end-user: {exact: jason}}, headers: {x-any: {}, uri: {exact: ignored}}}"
    headers = reviews(
        f"[{{match: [{match}], route: [{{destination: {{host: reviews}}}}]}}]"
    )[0]["match"]["headers"]
    assert {h["name"]: h.get("treatMissingHeaderAsEmpty", False) for h in headers} == {
        "x-any": False,
        "end-user": True,
    }
    assert next(h for h in headers if h["name"] == "x-any")["presentMatch"] is True


def test_a_fault_without_percentage_hits_nobody() -> None:
    none = reviews(
        "[{fault: {abort: {httpStatus: 500}}, route: [{destination: {host: reviews}}]}]"
    )[0]
    assert "typedPerFilterConfig" not in none
    old = reviews(
        "[{fault: {abort: {httpStatus: 500, percent: 100}}, route: [{destination: {host:"
        " reviews}}]}]"
    )[0]
    abort = old["typedPerFilterConfig"]["envoy.filters.http.fault"]["abort"]
    assert abort["percentage"] == {"numerator": 1000000, "denominator": "MILLION"}


@pytest.mark.parametrize(
    ("retries", "expected"),
    [
        ("{attempts: 0}", None),
        (
            "{attempts: 2}",
            (
                2,
                "connect-failure,refused-stream,unavailable,cancelled,reset-before-request",
                [],
            ),
        ),
        ("{attempts: 3, retryOn: '5xx,429'}", (3, "5xx,retriable-status-codes", [429])),
    ],
)
def test_retries_of_a_rule_take_the_place_of_the_meshs(
    retries: str, expected: Any
) -> None:
    policy = reviews(
        f"[{{retries: {retries}, route: [{{destination: {{host: reviews}}}}]}}]"
    )[0]["route"].get("retryPolicy")
    if expected is None:
        assert policy is None
        return
    count, conditions, codes = expected
    assert policy["numRetries"] == count
    assert policy["retryOn"] == conditions
    assert policy.get("retriableStatusCodes", []) == codes


def test_a_timeout_limits_grpc_too_and_none_is_infinite() -> None:
    limited = reviews("[{timeout: 2s, route: [{destination: {host: reviews}}]}]")[0][
        "route"
    ]
    assert (limited["timeout"], limited["maxGrpcTimeout"]) == ("2s", "2s")
    # Envoy would look at it instead of the timeout.
    assert "maxStreamDuration" not in limited
    assert (
        reviews("[{route: [{destination: {host: reviews}}]}]")[0]["route"]["timeout"]
        == "0s"
    )


def test_a_percent_sign_never_breaks_the_table() -> None:
    assert (
        escape("100% %REQ(x)% %START_TIME% %NONSENSE% 5%%")
        == "100%% %REQ(x)% %START_TIME% %%NONSENSE%% 5%%"
    )


def test_a_delegates_rules_stand_in_for_the_roots() -> None:
    root = virtual_service(
        "[{match: [{uri: {prefix: /api}}], timeout: 3s, delegate: {name: inner}}]",
        name="root",
    )
    inner = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: inner}
spec:
  http:
  - {match: [{uri: {prefix: /api/v2}}], route: [{destination: {host: ratings}}]}
  - {match: [{uri: {prefix: /other}}], route: [{destination: {host: nowhere}}]}
  - {route: [{destination: {host: reviews}}]}
"""
    state = mesh(
        service("reviews", "10.0.0.1"),
        service("ratings", "10.0.0.2"),
        config=f"{root}---{inner}",
    )
    routes = hosts(state)[REVIEWS]
    assert [(r["match"]["prefix"], r["route"]["timeout"]) for r in routes] == [
        ("/api/v2", "3s"),
        ("/api", "3s"),
    ]


def test_changing_one_rule_translates_its_service_alone() -> None:
    listed = [service(f"s{n}", f"10.0.0.{n}") for n in range(1, 30)]

    def config(weight: int) -> str:
        targets = (
            f"[{{destination: {{host: s1}}, weight: {weight}}}, {{destination: {{host: s2}},"
            " weight: 1}]"
        )
        return virtual_service(f"[{{route: {targets}}}]", hosts="[s1]")

    translator = Translator()
    before = mesh(*listed, config=config(1))
    translator.update(before)
    old, work = translator.snapshot(sidecar("s1-1", 9080)), translator.counters.services
    translator.update(
        build_mesh(catalog(listed), config=edge(config(5)), previous=before)
    )
    new = translator.snapshot(sidecar("s1-1", 9080))
    assert translator.counters.services == work + 1
    assert (new.clusters, new.endpoints, new.listeners) == (
        old.clusters,
        old.endpoints,
        old.listeners,
    )
    assert new.routes.version != old.routes.version


def test_no_domain_is_in_a_table_twice() -> None:
    rule = "[{route: [{destination: {host: reviews}}]}]"
    config = "---".join(
        virtual_service(rule, name=f"vs-{n}", hosts=f"[{host}]")
        for n, host in enumerate(
            ("nobody", "nobody.default.svc.cluster.local", "nobody.default")
        )
    )
    [table] = [
        t
        for t in told(mesh(service("reviews", "10.0.0.1"), config=config))["routes"]
        if t["name"] == "80"
    ]
    domains = [domain for host in table["virtualHosts"] for domain in host["domains"]]
    assert "nobody" in domains
    assert len(domains) == len(set(domains))
