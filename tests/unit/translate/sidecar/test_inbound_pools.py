"""A server's own proxy keeps the limits of its service's DestinationRule, or of its Sidecar."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from meshes import as_dict, catalog, edge, service, sidecar

from dockermesh.model import Protocol
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

UNLIMITED = 2**32 - 1
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def rule(pool: str, more: str = "", host: str = "reviews") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: limits}}
spec: {{host: {host}, {more} trafficPolicy: {pool}}}
---
"""


def own(spec: str) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: own}}
spec: {spec}
---
"""


def server(number: int = 9080, protocol: str = "http") -> Proxy:
    proxy = sidecar("reviews-1", number)
    assert proxy.workload is not None
    ports = tuple(replace(p, protocol=protocol) for p in proxy.workload.ports)
    return replace(proxy, workload=replace(proxy.workload, ports=ports))


def told(config: str, proxy: Proxy | None = None) -> dict[str, list[dict[str, Any]]]:
    proxy = proxy or server()
    assert proxy.workload is not None
    translator = Translator()
    known = catalog([service("reviews", "172.28.0.9")], [proxy.workload])
    translator.update(build_mesh(known, config=edge(config)))
    return as_dict(translator.snapshot(proxy))


def cluster(config: str, proxy: Proxy | None = None) -> dict[str, Any]:
    made = told(config, proxy)["clusters"]
    return next(c for c in made if c["name"].startswith("inbound|"))


def limits(config: str) -> dict[str, Any]:
    found: dict[str, Any] = cluster(config)["circuitBreakers"]["thresholds"][0]
    return found


POOL = (
    "{connectionPool: {tcp: {maxConnections: 7, connectTimeout: 3s},"
    " http: {http2MaxRequests: 8, http1MaxPendingRequests: 9}}}"
)


def test_a_destination_rule_limits_the_server_too() -> None:
    found = limits(rule(POOL))
    assert found["maxConnections"] == 7
    assert (found["maxRequests"], found["maxPendingRequests"]) == (8, 9)
    assert cluster(rule(POOL))["connectTimeout"] == "3s"


@pytest.mark.parametrize("host", ["*.service.consul", "reviews.service.consul", "*"])
def test_a_rule_may_name_the_service_in_any_way(host: str) -> None:
    assert limits(rule(POOL, host=f"'{host}'"))["maxConnections"] == 7


def test_the_settings_of_the_port_replace_those_of_the_host() -> None:
    policy = (
        "{connectionPool: {http: {http2MaxRequests: 8}}, portLevelSettings: [{port:"
        " {number: 9080}, connectionPool: {tcp: {maxConnections: 3}}}]}"
    )
    found = limits(rule(policy))
    assert (found["maxConnections"], found["maxRequests"]) == (3, UNLIMITED)


@pytest.mark.parametrize(
    ("spec", "most"),
    [
        ("{inboundConnectionPool: {tcp: {maxConnections: 2}}}", 2),
        (
            "{inboundConnectionPool: {tcp: {maxConnections: 2}}, ingress: [{port: {number:"
            " 9080, protocol: HTTP, name: http}, connectionPool: {tcp: {maxConnections:"
            " 1}}}]}",
            1,
        ),
    ],
)
def test_a_sidecar_takes_the_place_of_the_rule(spec: str, most: int) -> None:
    found = limits(rule(POOL) + own(spec))
    assert (found["maxConnections"], found["maxRequests"]) == (most, UNLIMITED)


def test_a_sidecar_with_an_endpoint_of_its_own_is_limited_too() -> None:
    spec = (
        "{inboundConnectionPool: {tcp: {maxConnections: 2}}, ingress: [{port: {number:"
        ' 9080, protocol: HTTP, name: http}, defaultEndpoint: "127.0.0.1:9999"}]}'
    )
    assert limits(own(spec))["maxConnections"] == 2


def test_rules_for_some_clients_and_of_subsets_say_nothing_to_the_server() -> None:
    chosen = rule(POOL, "workloadSelector: {matchLabels: {app: x}},")
    harmless = "{connectionPool: {tcp: {connectTimeout: 1s}}}"
    subset = rule(harmless, f"subsets: [{{name: v1, trafficPolicy: {POOL}}}],")
    for config in (chosen, subset, rule(POOL, host="ratings")):
        assert limits(config)["maxConnections"] == UNLIMITED


def test_requests_per_connection_are_counted_at_the_server() -> None:
    policy = "{connectionPool: {http: {maxRequestsPerConnection: 1, idleTimeout: 4s}}}"
    made = cluster(rule(policy))["typedExtensionProtocolOptions"][OPTIONS]
    common = made["commonHttpProtocolOptions"]
    assert common["maxRequestsPerConnection"] == 1
    assert common["idleTimeout"] == "4s"
    assert "httpProtocolOptions" in made["explicitHttpConfig"]


def test_http2_settings_reach_an_app_that_speaks_it() -> None:
    policy = "{connectionPool: {http: {maxConcurrentStreams: 5}}}"
    made = cluster(rule(policy), server(protocol="grpc"))
    options = made["typedExtensionProtocolOptions"][OPTIONS]["explicitHttpConfig"]
    assert options["http2ProtocolOptions"]["maxConcurrentStreams"] == 5


def test_connections_of_bytes_end_when_the_rule_says_so() -> None:
    policy = "{connectionPool: {tcp: {idleTimeout: 6s, maxConnectionDuration: 60s}}}"
    proxy = server(protocol=Protocol.TCP.value)
    [listener] = [
        item
        for item in told(rule(policy), proxy)["listeners"]
        if item["name"] == "virtualInbound"
    ]
    filters = [
        chain["filters"][-1]["typedConfig"] for chain in listener["filterChains"]
    ]
    own_filters = [f for f in filters if f.get("cluster") == "inbound|9080||"]
    assert own_filters
    assert {f["idleTimeout"] for f in own_filters} == {"6s"}
    assert {f["maxDownstreamConnectionDuration"] for f in own_filters} == {"60s"}


def test_a_service_entry_that_calls_the_workload_limits_it() -> None:
    entry = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: named}
spec:
  hosts: [named.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8081}]
  location: MESH_INTERNAL
  resolution: STATIC
  workloadSelector: {labels: {app: named}}
---
"""
    proxy = server()
    assert proxy.workload is not None
    labels = {"app": "named"}
    proxy = replace(
        proxy, labels=labels, workload=replace(proxy.workload, labels=labels)
    )
    made = told(entry + rule(POOL, host="named.example.com"), proxy)["clusters"]
    by_name = {
        c["name"]: c["circuitBreakers"]["thresholds"][0]
        for c in made
        if c["name"].startswith("inbound|")
    }
    assert by_name["inbound|8081||"]["maxConnections"] == 7
    assert by_name["inbound|9080||"]["maxConnections"] == UNLIMITED
