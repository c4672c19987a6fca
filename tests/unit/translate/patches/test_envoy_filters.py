"""EnvoyFilters change exactly what they name, in Istio's order, and can break no proxy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import yaml
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from meshes import edge, gateway, mesh, messages, service, sidecar, versions

from dockermesh.model import Protocol
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.translator import Translator
from dockermesh.xds import Snapshot

LUA = {
    "name": "envoy.filters.http.lua",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {
            "inline_string": "function envoy_on_request(handle) end"
        },
    },
}
MANAGER = {"name": "envoy.filters.network.http_connection_manager"}
BEFORE_ROUTER = {
    "listener": {
        "filterChain": {
            "filter": MANAGER | {"subFilter": {"name": "envoy.filters.http.router"}}
        }
    }
}
GATEWAY = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]}
"""


def patch(
    apply_to: str, operation: str, value: Any = None, **match: Any
) -> dict[str, Any]:
    own = {"operation": operation} | ({} if value is None else {"value": value})
    return {"applyTo": apply_to, "patch": own} | ({"match": match} if match else {})


def envoy_filter(
    *patches: dict[str, Any], name: str = "own", namespace: str = "default", **spec: Any
) -> str:
    return "---\n" + yaml.safe_dump(
        {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"configPatches": list(patches)} | spec,
        }
    )


def told(
    *filters: str, proxy: Proxy | None = None, extra: str = ""
) -> tuple[Snapshot, dict[str, str]]:
    translator = Translator()
    services = (
        service("reviews", "10.0.0.2"),
        service("db", "10.0.0.3", port=3306, protocol=Protocol.TCP),
    )
    translator.update(mesh(*services, config=extra + "".join(filters)))
    snapshot = translator.snapshot(proxy or sidecar("reviews-1", 9080))
    return snapshot, translator.problems()


def http_filters(listener: Any) -> list[list[str]]:
    """The HTTP filters of each chain that has some."""
    found = []
    for chain in listener.filter_chains:
        for network_filter in chain.filters:
            manager = hcm_pb2.HttpConnectionManager()
            if network_filter.typed_config.Unpack(manager):
                found.append(
                    [
                        f.name.removeprefix("envoy.filters.http.")
                        for f in manager.http_filters
                    ]
                )
    return found


def test_a_filter_goes_before_the_router_of_inbound_http_alone() -> None:
    text = envoy_filter(
        patch(
            "HTTP_FILTER",
            "INSERT_BEFORE",
            LUA,
            context="SIDECAR_INBOUND",
            **BEFORE_ROUTER,
        )
    )
    snapshot, problems = told(text)
    listeners = messages(snapshot, "listeners")
    assert (
        http_filters(listeners["virtualInbound"]) == [["lua", "router"]] * 2
    )  # mutual TLS, plaintext
    assert http_filters(listeners["0.0.0.0_9080"]) == [
        [
            "dockermesh.dialled",
            "dockermesh.again",
            "cors",
            "fault",
            "set_filter_state",
            "dockermesh.upgrade",
            "dockermesh.undeclared",
            "dynamic_forward_proxy",
            "router",
        ]
    ]
    assert not problems


def test_a_gateways_filters_do_not_touch_sidecars_and_the_reverse() -> None:
    text = envoy_filter(
        patch("HTTP_FILTER", "INSERT_FIRST", LUA, context="GATEWAY"),
        name="root",
        namespace="istio-system",
    )
    plain, _ = told(extra=GATEWAY)
    patched, _ = told(text, extra=GATEWAY)
    assert versions(patched) == versions(plain)
    at_the_edge, _ = told(
        text, extra=GATEWAY, proxy=gateway({"istio": "ingressgateway"})
    )
    assert http_filters(messages(at_the_edge, "listeners")["0.0.0.0_80"])[0][0] == "lua"


def test_a_proxy_without_matching_filters_shares_its_sets_with_all_others() -> None:
    text = envoy_filter(
        patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}),
        workloadSelector={"labels": {"app": "special"}},
    )
    translator = Translator()
    translator.update(mesh(service("reviews", "10.0.0.2"), config=text))
    one, special = (
        sidecar("reviews-1", 9080),
        replace(sidecar("reviews-2", 9080), labels={"app": "special"}),
    )
    plain = Translator()
    plain.update(mesh(service("reviews", "10.0.0.2")))
    assert versions(translator.snapshot(one)) == versions(plain.snapshot(one))
    changed = translator.snapshot(special)
    assert changed.endpoints is translator.snapshot(one).endpoints
    assert changed.listeners is translator.snapshot(one).listeners
    assert (
        messages(changed, "clusters")[
            "outbound|9080||reviews.service.consul"
        ].connect_timeout.seconds
        == 3
    )
    assert translator.snapshot(special) is changed


def test_what_did_not_change_is_not_patched_again() -> None:
    text = envoy_filter(patch("CLUSTER", "MERGE", {"connect_timeout": "3s"}))
    services = [service(f"s{n}", f"10.0.0.{n}") for n in range(3)]
    translator, proxy = Translator(), sidecar("s1-1", 9080)
    first = mesh(*services, config=text)
    translator.update(first)
    before = translator.snapshot(proxy).clusters
    services[0] = service("s0", "10.0.0.9", port=9081)
    translator.update(replace(first, services={s.hostname: s for s in services}))
    after = translator.snapshot(proxy).clusters
    assert after.get("outbound|9080||s1.service.consul") is before.get(
        "outbound|9080||s1.service.consul"
    )
    assert (
        messages(translator.snapshot(proxy), "clusters")[
            "outbound|9081||s0.service.consul"
        ].connect_timeout.seconds
        == 3
    )


def test_the_root_namespace_goes_first_and_priority_before_that() -> None:
    def adds(letter: str, **more: Any) -> str:
        return envoy_filter(
            patch("HTTP_FILTER", "INSERT_FIRST", LUA | {"name": letter}),
            name=letter,
            **more,
        )

    text = (
        adds("own")
        + adds("root", namespace="istio-system")
        + adds("early", priority=-1)
        + adds("other", namespace="x")
    )
    snapshot, _ = told(text)
    assert http_filters(messages(snapshot, "listeners")["virtualInbound"])[0] == [
        "own",
        "root",
        "early",
        "router",
    ]


@pytest.mark.parametrize(
    ("operation", "match", "expected"),
    [
        ("ADD", {}, ["original_dst", "added"]),
        ("INSERT_FIRST", {}, ["added", "original_dst"]),
        (
            "INSERT_BEFORE",
            {"listener": {"listenerFilter": "envoy.filters.listener.original_dst"}},
            ["added", "original_dst"],
        ),
        (
            "INSERT_AFTER",
            {"listener": {"listenerFilter": "envoy.filters.listener.original_dst"}},
            ["original_dst", "added"],
        ),
        ("INSERT_AFTER", {"listener": {"listenerFilter": "missing"}}, ["original_dst"]),
        (
            "REPLACE",
            {"listener": {"listenerFilter": "envoy.filters.listener.original_dst"}},
            ["added"],
        ),
        ("REPLACE", {}, ["original_dst"]),
    ],
)
def test_listener_filters_are_put_where_a_patch_says(
    operation: str, match: Any, expected: list[str]
) -> None:
    proxy_protocol = {
        "name": "added",
        "typed_config": {
            "@type": (
                "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"
            )
        },
    }
    text = envoy_filter(
        patch(
            "LISTENER_FILTER",
            operation,
            proxy_protocol,
            context="SIDECAR_INBOUND",
            **match,
        )
    )
    snapshot, problems = told(text)
    names = [
        f.name.rpartition(".")[2]
        for f in messages(snapshot, "listeners")["virtualInbound"].listener_filters
    ]
    assert [name for name in names if name != "tls_inspector"] == expected
    assert not problems


def test_a_port_of_an_inbound_listener_is_that_of_a_chain() -> None:
    merge = {
        "typed_config": {
            "@type": f"type.googleapis.com/{hcm_pb2.HttpConnectionManager.DESCRIPTOR.full_name}"
        }
    }
    merge["typed_config"] |= {"stat_prefix": "renamed"}  # type: ignore[operator]
    chain = {"portNumber": 9080, "filterChain": {"filter": MANAGER}}
    text = envoy_filter(
        patch(
            "NETWORK_FILTER", "MERGE", merge, context="SIDECAR_INBOUND", listener=chain
        )
    )
    snapshot, _ = told(text, proxy=sidecar("reviews-1", 9080, 9090))
    prefixes = set()
    for chain_ in messages(snapshot, "listeners")["virtualInbound"].filter_chains:
        manager = hcm_pb2.HttpConnectionManager()
        if chain_.filters[0].typed_config.Unpack(manager):
            prefixes.add(manager.stat_prefix)
    assert prefixes == {"inbound_0.0.0.0_9090", "renamed"}


def test_routes_of_a_virtual_host_are_merged_added_and_removed() -> None:
    answer = {
        "name": "teapot",
        "match": {"path": "/tea"},
        "direct_response": {"status": 418},
    }
    host = {"vhost": {"name": "reviews.service.consul:9080"}}
    named = {"vhost": host["vhost"] | {"route": {"action": "ROUTE"}}}
    text = envoy_filter(
        patch(
            "HTTP_ROUTE",
            "INSERT_FIRST",
            answer,
            context="SIDECAR_OUTBOUND",
            routeConfiguration=host,
        ),
        patch(
            "HTTP_ROUTE",
            "MERGE",
            {"route": {"timeout": "1.5s"}},
            context="SIDECAR_OUTBOUND",
            routeConfiguration=named,
        ),
        patch(
            "VIRTUAL_HOST",
            "REMOVE",
            routeConfiguration={"name": "9080", "vhost": {"domainName": "*"}},
        ),
        patch(
            "ROUTE_CONFIGURATION",
            "MERGE",
            {"response_headers_to_remove": ["x-own"]},
            context="SIDECAR_OUTBOUND",
        ),
    )
    snapshot, problems = told(text)
    table = messages(snapshot, "routes")["9080"]
    assert [host.name for host in table.virtual_hosts] == [
        "reviews.service.consul:9080"
    ]
    first, second = table.virtual_hosts[0].routes
    assert (first.name, second.route.timeout.seconds, second.route.timeout.nanos) == (
        "teapot",
        1,
        500_000_000,
    )
    assert table.response_headers_to_remove[-1] == "x-own"
    assert not problems


def test_inbound_routes_stand_in_the_listener_and_are_patched_there() -> None:
    limit = {
        "response_headers_to_add": [{"header": {"key": "x-served", "value": "yes"}}]
    }
    own = {"portNumber": 9080, "vhost": {"name": "inbound|http|9080"}}
    text = envoy_filter(
        patch(
            "VIRTUAL_HOST",
            "MERGE",
            limit,
            context="SIDECAR_INBOUND",
            routeConfiguration=own,
        )
    )
    snapshot, _ = told(text)
    text_ = messages(snapshot, "listeners")["virtualInbound"].SerializeToString()
    assert b"x-served" in text_


def test_clusters_are_matched_by_any_name_of_a_service_merged_removed_and_added() -> (
    None
):
    added = {
        "name": "limits",
        "type": "STRICT_DNS",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": "limits"},
    }
    text = envoy_filter(
        patch(
            "CLUSTER",
            "MERGE",
            {"lb_policy": "RANDOM"},
            cluster={"service": "reviews.default.svc.cluster.local"},
        ),
        patch(
            "CLUSTER",
            "REMOVE",
            cluster={"service": "db.service.consul", "portNumber": 3306},
        ),
        patch("CLUSTER", "ADD", added),
    )
    snapshot, problems = told(text)
    found = messages(snapshot, "clusters")
    assert found["outbound|9080||reviews.service.consul"].lb_policy == 3
    assert "outbound|3306||db.service.consul" not in found
    assert "limits" in found
    assert not problems


def test_a_wrapped_false_takes_the_place_of_true() -> None:
    text = envoy_filter(
        patch(
            "LISTENER",
            "MERGE",
            {"bind_to_port": True},
            listener={"name": "0.0.0.0_9080"},
        ),
        patch(
            "LISTENER",
            "MERGE",
            {"bind_to_port": False},
            listener={"name": "0.0.0.0_9080"},
        ),
    )
    snapshot, _ = told(text)
    assert messages(snapshot, "listeners")["0.0.0.0_9080"].bind_to_port.value is False


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (patch("CLUSTER", "MERGE", {"connect_timeout": "-1s"}), "must be above 0"),
        (patch("CLUSTER", "MERGE", {"connect_timeout": "9223372036s"}), "between 0 and 9223372035"),
        (patch("CLUSTER", "MERGE", {"no_such_field": 1}), "no_such_field"),
        (patch("CLUSTER", "MERGE", {"name": "renamed"}), "must keep its name"),
        (patch("HTTP_FILTER", "ADD", LUA), "router would not be the last"),
        (patch("HTTP_FILTER", "INSERT_FIRST", {"name": "x", "typed_config": {"@type": "x.com/a.B"}}), "a.B"),
        (patch("HTTP_FILTER", "REMOVE", context="SIDECAR_INBOUND", **BEFORE_ROUTER), "router would not be the last"),
        (patch("NETWORK_FILTER", "ADD", {"name": "envoy.filters.network.rbac"} | {"typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "x"}}),
         "after one that ends the chain"),
        (patch("HTTP_FILTER", "INSERT_FIRST", {"name": "x", "typed_config": {
            "@type": "type.googleapis.com/udpa.type.v1.TypedStruct",
            "type_url": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "value": {"stat_prefix": "x", "token_bucket": {"max_tokens": 0}}}}), "token_bucket.max_tokens"),
        (patch("HTTP_FILTER", "INSERT_FIRST", {"name": "envoy.filters.http.buffer"}), "no typed_config"),
        (patch("HTTP_FILTER", "INSERT_FIRST", {"name": "any", "typed_config": {}}), "no typed_config"),
        (patch("LISTENER_FILTER", "ADD", {"name": "any"}, context="SIDECAR_INBOUND"), "no typed_config"),
        (patch("FILTER_CHAIN", "REMOVE"), "no filter chain"),
        (patch("CLUSTER", "ADD", {"name": "PassthroughCluster", "connect_timeout": "1s"}), "exists already"),
        (patch("VIRTUAL_HOST", "MERGE", {"domains": ["*"]}), "twice"),
        (patch("BOOTSTRAP", "MERGE", {}), "bootstrap"),
        (patch("VIRTUAL_HOST", "MERGE", {"retry_policy": {"retriable_request_headers": [
            {"name": "x", "string_match": {"safe_regex": {"regex": r"\p{Foo}"}}}]}}), r"invalid character class range: \p{Foo}"),
        (patch("HTTP_FILTER", "INSERT_FIRST", {"name": "x", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": {"policies": {"x": {
                "principals": [{"any": True}], "permissions": [{"uri_template": {"name": "x", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                    "path_template": "/**/*"}}}]}}}}}), "no wildcard after **"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_patch_that_envoy_would_refuse_is_left_out_and_named(
    broken: dict[str, Any], reason: str
) -> None:
    good = patch(
        "CLUSTER",
        "MERGE",
        {"connect_timeout": "3s"},
        cluster={"name": "PassthroughCluster"},
    )
    snapshot, problems = told(envoy_filter(broken, good))
    assert reason in problems["EnvoyFilter default/own"]
    assert "configPatches[0]" in problems["EnvoyFilter default/own"]
    assert (
        messages(snapshot, "clusters")["PassthroughCluster"].connect_timeout.seconds
        == 3
    )
    plain, _ = told(envoy_filter(good))
    # Where a route of the user's might judge, requests are put in order, whatever becomes of it.
    in_order = {"listeners"} if broken["applyTo"] == "VIRTUAL_HOST" else set()
    assert {
        k for k, v in versions(snapshot).items() if versions(plain)[k] != v
    } == in_order


def test_a_transport_socket_is_merged_by_its_content() -> None:
    rule = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: r}
spec: {host: reviews, trafficPolicy: {tls: {mode: SIMPLE, sni: own.example}}}
"""
    tls = {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": (
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
            ),
            "allow_renegotiation": True,
        },
    }
    snapshot, problems = told(
        envoy_filter(patch("CLUSTER", "MERGE", {"transport_socket": tls})), extra=rule
    )
    body = messages(snapshot, "clusters")[
        "outbound|9080||reviews.service.consul"
    ].SerializeToString()
    assert b"own.example" in body
    assert not problems


def test_a_version_and_metadata_choose_proxies() -> None:
    text = envoy_filter(
        patch(
            "CLUSTER",
            "MERGE",
            {"connect_timeout": "3s"},
            proxy={"proxyVersion": r"^1\.2.*", "metadata": {"ROLE": "a"}},
        )
    )
    for metadata, expected in (
        ({"ROLE": "a"}, 3),
        ({"ROLE": "b"}, 10),
        ({"ROLE": "a", "ISTIO_VERSION": "1.9.0"}, 10),
    ):
        snapshot, _ = told(
            text, proxy=replace(sidecar("reviews-1", 9080), metadata=metadata)
        )
        assert (
            messages(snapshot, "clusters")["PassthroughCluster"].connect_timeout.seconds
            == expected
        )


def test_extension_configs_are_served() -> None:
    snapshot, _ = told(envoy_filter(patch("EXTENSION_CONFIG", "ADD", LUA)))
    assert list(snapshot.extensions) == ["envoy.filters.http.lua"]


@pytest.mark.parametrize(
    "type_name",
    [
        "envoy.extensions.access_loggers.stats.v3.Config",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        "envoy.extensions.formatter.cel.v3.Cel",
    ],
)
def test_messages_that_the_mesh_describes_itself_can_be_patched_in(
    type_name: str,
) -> None:
    value = {"@type": f"type.googleapis.com/{type_name}"}
    added = {"name": "own", "typed_config": value}
    snapshot, problems = told(envoy_filter(patch("EXTENSION_CONFIG", "ADD", added)))
    assert list(snapshot.extensions) == ["own"]
    assert not problems


def test_the_config_keeps_the_filters() -> None:
    assert len(edge(envoy_filter(patch("CLUSTER", "MERGE", {}))).envoy_filters) == 1
