"""DestinationRules and ServiceEntries as clusters, endpoints and listeners: Istio's documented
traps.
"""

from __future__ import annotations

from typing import Any

import pytest
from meshes import as_dict, mesh, service, sidecar

from dockermesh.config.documents import read_document
from dockermesh.model import Endpoint, Port, Protocol, Service
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.translator import Translator

REVIEWS = "reviews.service.consul"


def told(state: MeshState, proxy: Proxy | None = None) -> dict[str, dict[str, Any]]:
    """Resources by type and name."""
    translator = Translator()
    translator.update(state)
    made = as_dict(translator.snapshot(proxy or sidecar("front-1", 9080)))
    return {
        kind: {item.get("name") or item["clusterName"]: item for item in listed}
        for kind, listed in made.items()
    }


def rule(spec: str, *, name: str = "reviews", namespace: str = "default") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: {namespace}}}
spec: {spec}
"""


def entry(spec: str, name: str = "entry") -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}}}
spec: {spec}
"""


def cluster(spec: str, name: str = f"outbound|9080||{REVIEWS}") -> Any:
    return told(mesh(service("reviews", "10.0.0.1", "10.0.0.2"), config=rule(spec)))[
        "clusters"
    ][name]


def addresses(assignment: Any) -> list[str]:
    groups = assignment.get("endpoints", [])
    return [
        e["endpoint"]["address"]["socketAddress"]["address"]
        for g in groups
        for e in g["lbEndpoints"]
    ]


def test_subsets_select_endpoints_that_carry_their_labels() -> None:
    spec = "{host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: all},"
    spec += "{name: none, labels: {version: x}}]}"
    found = told(mesh(service("reviews", "10.0.0.1", "10.0.0.2"), config=rule(spec)))
    assert addresses(found["endpoints"][f"outbound|9080|v1|{REVIEWS}"]) == ["10.0.0.1"]
    assert addresses(found["endpoints"][f"outbound|9080|all|{REVIEWS}"]) == [
        "10.0.0.1",
        "10.0.0.2",
    ]
    assert addresses(found["endpoints"][f"outbound|9080|none|{REVIEWS}"]) == []
    assert f"outbound|9080|none|{REVIEWS}" in found["clusters"]


def test_a_subset_overrides_block_by_block() -> None:
    spec = """{host: reviews,
      trafficPolicy: {loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 7}}},
      subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {connectionPool: {http: {maxRetries: 3}}}}]}"""
    limits = cluster(spec, f"outbound|9080|v1|{REVIEWS}")
    assert limits["lbPolicy"] == "RANDOM"
    [threshold] = limits["circuitBreakers"]["thresholds"]
    assert (threshold["maxRetries"], threshold["maxConnections"]) == (3, 4294967295)


def test_settings_of_a_port_replace_the_whole_policy() -> None:
    spec = """{host: reviews, trafficPolicy: {loadBalancer: {simple: RANDOM},
      connectionPool: {tcp: {maxConnections: 7}},
      portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}}"""
    made = cluster(spec)
    assert "lbPolicy" not in made  # ROUND_ROBIN is the default of the message
    assert made["circuitBreakers"]["thresholds"][0]["maxConnections"] == 4294967295


def test_outlier_detection_has_istios_defaults_and_works_with_few_endpoints() -> None:
    made = cluster(
        "{host: reviews, trafficPolicy: {outlierDetection: {baseEjectionTime: 400s}}}"
    )
    detection = made["outlierDetection"]
    assert detection["enforcingSuccessRate"] == 0
    assert detection["alwaysEjectOneHost"] is True
    assert (detection["baseEjectionTime"], detection["maxEjectionTime"]) == (
        "400s",
        "400s",
    )
    assert made["commonLbConfig"]["healthyPanicThreshold"] == {}


def test_consistent_hash_needs_the_route_too_even_the_default_one() -> None:
    spec = "{host: reviews, trafficPolicy: {loadBalancer: {consistentHash: "
    spec += "{httpHeaderName: x-user, maglev: {tableSize: 1009}}}}}"
    found = told(mesh(service("reviews", "10.0.0.1"), config=rule(spec)))
    assert found["clusters"][f"outbound|9080||{REVIEWS}"]["lbPolicy"] == "MAGLEV"
    [host] = [
        h for h in found["routes"]["9080"]["virtualHosts"] if REVIEWS in h["domains"]
    ]
    action = host["routes"][0]["route"]
    assert action["hashPolicy"] == [{"header": {"headerName": "x-user"}}]
    assert "retryHostPredicate" not in action["retryPolicy"]


def test_the_most_specific_host_of_rules_wins_and_only_visible_namespaces_count() -> (
    None
):
    wild = rule(
        '{host: "*.service.consul", trafficPolicy: {loadBalancer: {simple: RANDOM}}}',
        name="a-wild",
    )
    exact = rule("{host: reviews, subsets: [{name: v1}]}")
    foreign = rule(
        f"{{host: {REVIEWS}, subsets: [{{name: x}}]}}",
        name="foreign",
        namespace="elsewhere",
    )
    found = told(
        mesh(
            service("reviews", "10.0.0.1"),
            service("ratings", "10.0.0.2"),
            config="---".join((wild, exact, foreign)),
        )
    )["clusters"]
    assert found[f"outbound|9080||{REVIEWS}"]["lbPolicy"] == "LEAST_REQUEST"
    assert found["outbound|9080||ratings.service.consul"]["lbPolicy"] == "RANDOM"
    assert f"outbound|9080|v1|{REVIEWS}" in found
    assert f"outbound|9080|x|{REVIEWS}" not in found


def located(*localities: str) -> Service:
    endpoints = tuple(
        Endpoint(f"10.0.0.{n}", 9080, locality=at) for n, at in enumerate(localities, 1)
    )
    return Service("reviews", REVIEWS, (Port(9080, Protocol.HTTP),), endpoints)


def test_failover_between_localities_needs_outlier_detection() -> None:
    near = Proxy(id="front", locality="eu/a/1")
    services = located("us/b/1", "eu/a/1", "eu/b/1")

    def priorities(spec: str) -> dict[str, int]:
        groups = told(mesh(services, config=rule(spec)), near)["endpoints"][
            f"outbound|9080||{REVIEWS}"
        ]["endpoints"]
        return {addresses({"endpoints": [g]})[0]: g.get("priority", 0) for g in groups}

    assert set(priorities("{host: reviews}").values()) == {0}
    spec = (
        "{host: reviews, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}}"
    )
    assert priorities(spec) == {"10.0.0.2": 0, "10.0.0.3": 1, "10.0.0.1": 2}


def test_failover_holds_for_endpoints_that_dns_resolves() -> None:
    config = entry(
        "{hosts: [api.example.com], location: MESH_EXTERNAL, resolution: DNS, ports: [{number: 80,"
        " name: http, protocol: HTTP}], endpoints: [{address: us.example.com, locality: us},"
        " {address: eu.example.com, locality: eu}]}"
    )
    config += "---" + rule(
        "{host: api.example.com, trafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}}"
    )
    found = told(mesh(config=config), Proxy(id="front", locality="eu/a/"))["clusters"][
        "outbound|80||api.example.com"
    ]
    groups = found["loadAssignment"]["endpoints"]
    assert {addresses({"endpoints": [g]})[0]: g.get("priority", 0) for g in groups} == {
        "eu.example.com": 0,
        "us.example.com": 1,
    }


def test_localities_share_traffic_by_weight() -> None:
    spec = """{host: reviews, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute:
      [{from: "eu/*", to: {"eu/*": 80, "us/*": 20}}]}}}}"""
    state = mesh(located("us/b/1", "eu/a/1", "ap/a/1"), config=rule(spec))
    found = told(state, Proxy(id="front", locality="eu/a/1"))
    groups = found["endpoints"][f"outbound|9080||{REVIEWS}"]["endpoints"]
    assert [(g["locality"]["region"], g["loadBalancingWeight"]) for g in groups] == [
        ("eu", 80),
        ("us", 20),
    ]
    assert (
        found["clusters"][f"outbound|9080||{REVIEWS}"]["commonLbConfig"][
            "localityWeightedLbConfig"
        ]
        == {}
    )


def test_tls_is_originated_with_the_requests_name_and_checked_against_the_systems_roots() -> (
    None
):
    config = entry(
        "{hosts: [api.example.com], location: MESH_EXTERNAL, resolution: DNS,"
        " ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]}"
    )
    config += "---" + rule(
        "{host: api.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}"
    )
    made = told(mesh(config=config))["clusters"]["outbound|80||api.example.com"]
    options = next(iter(made["typedExtensionProtocolOptions"].values()))
    assert options["upstreamHttpProtocolOptions"] == {
        "autoSni": True,
        "autoSanValidation": True,
    }
    context = made["transportSocket"]["typedConfig"]["commonTlsContext"][
        "combinedValidationContext"
    ]
    assert context["validationContextSdsSecretConfig"]["name"] == "file-root:system"
    [group] = made["loadAssignment"]["endpoints"]
    assert group["lbEndpoints"][0]["endpoint"]["address"]["socketAddress"] == {
        "address": "api.example.com",
        "portValue": 443,
    }


def test_every_resolution_has_its_kind_of_cluster() -> None:
    ports = "ports: [{number: 80, name: http, protocol: HTTP}]"
    config = "---".join(
        entry(
            f"{{hosts: [{name}.x], resolution: {resolution}, {ports}{more}}}", name=name
        )
        for name, resolution, more in (
            ("static", "STATIC", ", endpoints: [{address: 10.0.0.9}]"),
            ("dns", "DNS", ""),
            ("round", "DNS_ROUND_ROBIN", ""),
            ("none", "NONE", ""),
        )
    )
    found = told(mesh(config=config))
    kinds = {
        n.split("|")[3]: c.get("type")
        for n, c in found["clusters"].items()
        if n.startswith("outbound|80")
    }
    assert kinds == {
        "static.x": "EDS",
        "dns.x": "STRICT_DNS",
        "round.x": "LOGICAL_DNS",
        "none.x": "ORIGINAL_DST",
    }
    dns = str(found["listeners"]["dns"])
    assert "dns.x" in dns
    assert "none.x" not in dns


def test_tls_without_address_is_told_apart_by_sni_and_unknown_names_pass() -> None:
    config = "---".join(
        entry(
            f"{{hosts: [{h}], resolution: DNS, ports: [{{number: 443, name: tls, protocol:"
            " TLS}]}",
            name=h,
        )
        for h in ("a.x", "b.x")
    )
    listener = told(mesh(config=config))["listeners"]["0.0.0.0_443"]
    assert [c["filterChainMatch"]["serverNames"] for c in listener["filterChains"]] == [
        ["a.x"],
        ["b.x"],
    ]
    assert "PassthroughCluster" in str(listener["defaultFilterChain"])
    closed = told(mesh(config=config, settings=MeshSettings(allow_any=False)))[
        "listeners"
    ]["0.0.0.0_443"]
    assert "BlackHoleCluster" in str(closed["defaultFilterChain"])


def test_a_sidecar_limits_what_its_proxies_see() -> None:
    config = """
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ["./reviews.service.consul"]}]
"""
    found = told(
        mesh(
            service("reviews", "10.0.0.1"),
            service("ratings", "10.0.0.2"),
            config=config,
        )
    )
    outbound = [name for name in found["clusters"] if name.startswith("outbound|")]
    assert outbound == [f"outbound|9080||{REVIEWS}"]
    assert "block_all" in str(found["routes"]["9080"])


def test_what_is_exported_nowhere_else_is_seen_in_its_namespace_only() -> None:
    config = entry(
        "{hosts: [own.x], exportTo: ['.'], resolution: DNS, ports: [{number: 80, name: http,"
        " protocol: HTTP}]}"
    )
    state = mesh(config=config)
    assert "outbound|80||own.x" in told(state, Proxy(id="a"))["clusters"]
    assert (
        "outbound|80||own.x"
        not in told(state, Proxy(id="b", namespace="other"))["clusters"]
    )


def test_a_mesh_config_sets_the_mesh() -> None:
    config = """
kind: MeshConfig
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
connectTimeout: 3s
pathNormalization: {normalization: MERGE_SLASHES}
"""
    found = told(mesh(service("reviews", "10.0.0.1"), config=config))
    assert found["clusters"][f"outbound|9080||{REVIEWS}"]["connectTimeout"] == "3s"
    assert "BlackHoleCluster" in str(
        found["listeners"]["virtualOutbound"]["filterChains"][-1]
    )
    assert "'mergeSlashes': True" in str(found["listeners"]["virtualInbound"])


def test_an_annotation_asks_for_active_health_checks() -> None:
    text = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
  annotations: {dockermesh.io/health-check: '{"http": {"path": "/health"}, "interval": "2s", "unhealthyThreshold": 4}'}
spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}]}
"""
    found = told(mesh(service("reviews", "10.0.0.1"), config=text))["clusters"]
    for name in (f"outbound|9080||{REVIEWS}", f"outbound|9080|v1|{REVIEWS}"):
        [check] = found[name]["healthChecks"]
        assert (
            check["httpHealthCheck"]["path"],
            check["interval"],
            check["timeout"],
        ) == (
            "/health",
            "2s",
            "1s",
        )
        assert (check["healthyThreshold"], check["unhealthyThreshold"]) == (2, 4)
        assert found[name]["ignoreHealthOnHostRemoval"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{http: {path: health}}", "must begin with /"),
        ("{http: {}, tcp: {}}", "only one of"),
        ("{interval: 1s}", "one of http, tcp and grpc"),
        ("{tcp: {}, interval: never}", "duration"),
        ("{tcp: {}, retries: 1}", "unknown field"),
        ("[", "one mapping"),
        ("&a [*a, *a]", ""),
    ],
)
def test_a_health_check_that_is_none_is_refused(text: str, reason: str) -> None:
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {
            "name": "reviews",
            "annotations": {"dockermesh.io/health-check": text},
        },
        "spec": {"host": "reviews"},
    }
    errors = [f for f in read_document(document).findings if f.is_error]
    assert any(reason in f.message for f in errors)


def test_the_proxy_protocol_goes_around_the_transport() -> None:
    found = cluster(
        "{host: reviews, trafficPolicy: {proxyProtocol: {version: V2}, tls: {mode: SIMPLE}}}"
    )
    socket = found["transportSocket"]
    assert socket["name"] == "envoy.transport_sockets.upstream_proxy_protocol"
    assert socket["typedConfig"]["config"]["version"] == "V2"
    assert (
        socket["typedConfig"]["transportSocket"]["name"]
        == "envoy.transport_sockets.tls"
    )
    plain = cluster("{host: reviews, trafficPolicy: {proxyProtocol: {version: V1}}}")[
        "transportSocket"
    ]["typedConfig"]
    assert plain["transportSocket"]["name"] == "envoy.transport_sockets.raw_buffer"


def test_tcp_is_tunnelled_through_a_proxy() -> None:
    text = rule(
        "{host: db, trafficPolicy: {tunnel: {protocol: POST, targetHost: far.example, targetPort:"
        " 443}}}"
    )
    found = told(
        mesh(service("db", "10.0.0.3", port=3306, protocol=Protocol.TCP), config=text)
    )
    chains = [
        c for item in found["listeners"].values() for c in item.get("filterChains", [])
    ]
    proxies = [
        f["typedConfig"]
        for c in chains
        for f in c["filters"]
        if "tunnelingConfig" in f["typedConfig"]
    ]
    assert [p["tunnelingConfig"] for p in proxies] == [
        {"hostname": "far.example:443", "usePost": True}
    ]
