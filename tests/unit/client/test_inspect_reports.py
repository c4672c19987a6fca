"""Proxies' names, Envoy's dumps as istioctl's tables, and the comparison of two dumps."""

from __future__ import annotations

import base64
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dockermesh.ca import new_material
from dockermesh.cli.main import root
from dockermesh.client.inspect import tables
from dockermesh.client.inspect.dump import Dump, public_names, read_dump, read_json
from dockermesh.client.inspect.logging import logging_paths
from dockermesh.client.inspect.proxies import LocalProxy, find_proxy
from dockermesh.client.inspect.routing import gateway_listener
from dockermesh.client.inspect.secrets import secret_items
from dockermesh.client.inspect.status import compare, status_entries, status_row
from dockermesh.errors import InputError, UsageError

# fmt: off
FIELDS = [
    "active_state", "address", "application_protocols", "bootstrap", "cluster", "cluster_name", "clusters",
    "config", "domains", "dynamic_active_clusters", "dynamic_active_secrets", "dynamic_endpoint_configs",
    "dynamic_listeners", "dynamic_route_configs", "endpoint", "endpoint_config", "endpoints", "filter_chain_match",
    "filter_chains", "filter_metadata", "filters", "inline_string", "istio", "lb_endpoints", "listener", "match",
    "metadata", "name", "port_value", "prefix_ranges", "route", "route_config", "routes", "secret", "server_names",
    "socket_address", "static_clusters", "tls_certificate", "trusted_ca", "type", "typed_config",
    "validation_context", "virtual_hosts",
]
# fmt: on
ADMIN = "type.googleapis.com/envoy.admin.v3."
ORIGIN = "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews"


def dump_of(**sections: Any) -> Dump:
    configs = [
        {"@type": f"{ADMIN}{name}ConfigDump", **fields}
        for name, fields in sections.items()
    ]
    return read_dump(json.dumps({"configs": configs}).encode(), "test")


def metadata(path: str) -> dict[str, Any]:
    return {"filter_metadata": {"istio": {"config": path}}}


# names
# --------------------------------------------------------------------------------------------------

PROXIES = [
    LocalProxy(
        "book/reviews-v1-1",
        "default",
        "a" * 64,
        ("book-reviews-v1-1", "book-reviews-v1-1-pod-1", "a" * 64),
    ),
    LocalProxy("book/web-1", "default", "b" * 64, ("web", "b" * 64)),
    LocalProxy("book/web-2", "default", "c" * 64, ("c" * 64,)),
    LocalProxy("shop/gateway-1", "edge", "d" * 64, ("d" * 64,)),
]


@pytest.mark.parametrize(
    ("query", "workload"),
    [
        ("book/reviews-v1-1", "book/reviews-v1-1"),
        ("book/reviews-v1-1.default", "book/reviews-v1-1"),
        ("reviews-v1-1", "book/reviews-v1-1"),
        ("reviews-v1-1.default", "book/reviews-v1-1"),
        ("reviews-v1", "book/reviews-v1-1"),
        ("book/reviews-v1", "book/reviews-v1-1"),
        ("book-reviews-v1-1-pod-1", "book/reviews-v1-1"),
        ("bbbbbbbbbbbb", "book/web-1"),
        ("web", "book/web-1"),
        ("web-2", "book/web-2"),
        ("gateway.edge", "shop/gateway-1"),
    ],
)
def test_a_workload_is_found_by_every_name_that_people_use(
    query: str, workload: str
) -> None:
    proxies = (
        PROXIES
        if query != "web"
        else [p for p in PROXIES if p.workload != "book/web-2"]
    )
    assert find_proxy(query, proxies).workload == workload


def test_a_name_that_fits_several_or_none_is_refused_with_a_hint() -> None:
    with pytest.raises(InputError, match="book/web-1, book/web-2"):
        find_proxy("web", PROXIES)
    with pytest.raises(InputError, match="did you mean reviews-v1-1"):
        find_proxy("review-v1-1", PROXIES)
    with pytest.raises(InputError, match="no proxy on this host"):
        find_proxy("gateway", PROXIES, namespace="default")


# tables
# --------------------------------------------------------------------------------------------------


def test_clusters_are_shown_with_their_parts_and_their_destination_rule() -> None:
    clusters = [
        {"name": "PassthroughCluster", "type": "ORIGINAL_DST"},
        {
            "name": "outbound|9080|v1|reviews.example",
            "type": "EDS",
            "metadata": metadata(ORIGIN),
        },
        {"name": "outbound|9080||reviews.example", "type": "EDS"},
        {"name": "inbound|9080||", "type": "ORIGINAL_DST"},
    ]
    assert tables.cluster_rows(clusters) == [
        ["", "9080", "-", "inbound", "ORIGINAL_DST", ""],
        ["PassthroughCluster", "-", "-", "-", "ORIGINAL_DST", ""],
        ["reviews.example", "9080", "-", "outbound", "EDS", ""],
        ["reviews.example", "9080", "v1", "outbound", "EDS", "reviews.shop"],
    ]
    taken = [
        c["name"]
        for c in clusters
        if tables.ClusterFilter(fqdn="reviews", subset="v1", port=9080).takes(c)
    ]
    assert taken == ["outbound|9080|v1|reviews.example"]
    assert not tables.ClusterFilter(port=80).takes(clusters[1])


def chain(target: dict[str, Any], **match: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"filters": [{"name": "anything", "typed_config": target}]}
    return made | ({"filter_chain_match": match} if match else {})


TCP = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"


def test_listeners_are_shown_by_filter_chain_with_istioctls_words() -> None:
    listener = {
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15006}},
        "filter_chains": [
            chain(
                {"@type": TCP, "cluster": "BlackHoleCluster"}, destination_port=15006
            ),
            chain(
                {"@type": HTTP, "rds": {"route_config_name": "9080"}},
                application_protocols=["http/1.1", "h2c"],
            ),
            chain(
                {"@type": TCP, "cluster": "outbound|443||a.example"},
                server_names=["a.example"],
                transport_protocol="tls",
                prefix_ranges=[{"address_prefix": "10.0.0.0", "prefix_len": 8}],
            ),
        ],
        "default_filter_chain": chain({"@type": TCP, "cluster": "PassthroughCluster"}),
    }
    assert tables.listener_rows([listener]) == [
        ["0.0.0.0", "15006", "App: HTTP", "Route: 9080"],
        ["0.0.0.0", "15006", "ALL", "PassthroughCluster"],
        ["0.0.0.0", "15006", "Addr: *:15006", "Non-HTTP/Non-TCP"],
        [
            "0.0.0.0",
            "15006",
            "SNI: a.example; Trans: tls; Addr: 10.0.0.0/8",
            "Cluster: outbound|443||a.example",
        ],
    ]
    assert tables.ListenerFilter(port=15006, kind="http+tcp").takes(listener)
    assert not tables.ListenerFilter(address="127.0.0.1").takes(listener)


def test_routes_are_shown_by_match_without_what_is_passed_through() -> None:
    table = {
        "name": "9080",
        "virtual_hosts": [
            {
                "name": "reviews:9080",
                "domains": [
                    "reviews.shop.svc.cluster.local",
                    "reviews.shop.svc",
                    "reviews.shop",
                    "reviews",
                    "reviews:9080",
                    "r",
                    "10.1.1.1",
                ],
                "routes": [
                    {
                        "match": {"path": "/a"},
                        "route": {"cluster": "x"},
                        "metadata": metadata(ORIGIN),
                    },
                    {
                        "match": {"safe_regex": {"regex": "/b.*"}},
                        "route": {"cluster": "x"},
                    },
                ],
            },
            {"name": "empty", "domains": ["empty"]},
            {
                "name": "allow_any",
                "domains": ["*"],
                "routes": [{"route": {"cluster": "PassthroughCluster"}}],
            },
        ],
    }
    domains = "reviews.shop, reviews + 2 more..."
    assert tables.route_rows([table]) == [
        ["9080", "reviews:9080", domains, "/a", "reviews.shop"],
        ["9080", "reviews:9080", domains, "regex /b.*", ""],
        ["9080", "empty", "empty", "/*", "404"],
    ]


def test_endpoints_are_shown_by_address_and_can_be_picked() -> None:
    host = {
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 9080}},
        "health_status": {"eds_health_status": "HEALTHY", "failed_outlier_check": True},
    }
    pipe = {
        "address": {"pipe": {"path": "/x"}},
        "health_status": {"eds_health_status": "UNHEALTHY"},
    }
    statuses = [
        {"name": "b", "host_statuses": [pipe, host]},
        {"name": "a", "host_statuses": [host]},
    ]
    assert tables.endpoint_rows(statuses, tables.EndpointFilter()) == [
        ["10.0.0.1:9080", "HEALTHY", "FAILED", "a"],
        ["10.0.0.1:9080", "HEALTHY", "FAILED", "b"],
        ["unix:///x", "UNHEALTHY", "OK", "b"],
    ]
    picked = tables.endpoint_rows(
        statuses, tables.EndpointFilter(port=9080, cluster="A", status="healthy")
    )
    assert picked == [["10.0.0.1:9080", "HEALTHY", "FAILED", "a"]]


def test_certificates_are_shown_and_private_keys_and_tokens_never() -> None:
    root = new_material("cluster.local", datetime.now(UTC)).roots_pem
    label = "ENCRYPTED PRIVATE KEY"
    sealed = f"-----BEGIN {label}-----\nKEY\n-----END {label}-----\n".encode()
    chain = {"inline_bytes": base64.b64encode(root + sealed).decode()}
    pair = {"certificate_chain": chain, "private_key": {"inline_string": "KEY"}}
    secret = {"name": "default", "tls_certificate": pair}
    header = {"key": "authorization", "value": "Bearer SECRET"}
    dump = dump_of(
        Secrets={"dynamic_active_secrets": [{"name": "default", "secret": secret}]},
        Bootstrap={"bootstrap": {"initial_metadata": [header]}},
    )
    assert "KEY" not in str(dump) and "SECRET" not in str(dump)
    ((_, shown),) = dump.secrets()
    content = shown["tls_certificate"]["certificate_chain"]["inline_bytes"]
    assert base64.b64decode(content) == root, "not the sealed key behind it"
    (item,) = secret_items(dump.secrets(), datetime.now(UTC))
    assert item.row()[:4] == ["default", "Cert Chain", "ACTIVE", "true"]
    assert int(item.serial_number, 16) and item.not_after > item.not_before
    (later,) = secret_items(dump.secrets(), datetime(2300, 1, 1, tzinfo=UTC))
    assert not later.valid


def test_a_file_that_is_no_dump_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"[]", b'{"clusters": []}', b"\xff", b"[" * 100_000):
        with pytest.raises(InputError, match="test"):
            read_dump(content, "test")


def test_json_has_the_names_that_protobuf_gives_and_leaves_users_keys() -> None:
    found = {
        "virtual_hosts": [
            {"typed_per_filter_config": {"envoy.filters.http.jwt_authn": {"a_b": 1}}}
        ]
    }
    found["metadata"] = {"filter_metadata": {"my_key": {"my_own": 1}}}  # type: ignore[assignment]
    assert public_names(found) == {
        "virtualHosts": [
            {"typedPerFilterConfig": {"envoy.filters.http.jwt_authn": {"aB": 1}}}
        ],
        "metadata": {"filterMetadata": {"my_key": {"my_own": 1}}},
    }
    assert read_json(b'{"a_b": 1}', "test") == {"a_b": 1}


@pytest.mark.parametrize(
    ("wanted", "paths"),
    [
        ("", ["/logging"]),
        ("debug", ["/logging?level=debug"]),
        ("http:warn,rbac:info", ["/logging?http=warning", "/logging?rbac=info"]),
        ("all:trace", ["/logging?level=trace"]),
    ],
)
def test_log_levels_are_asked_for_as_envoy_wants_it(
    wanted: str, paths: list[str]
) -> None:
    assert logging_paths(wanted) == paths


def test_an_unknown_log_level_is_refused() -> None:
    with pytest.raises(UsageError, match="loud"):
        logging_paths("http:loud")


# status
# --------------------------------------------------------------------------------------------------


def report(types: dict[str, Any]) -> dict[str, Any]:
    proxy = {"types": types, "envoy": "1.40.0"}
    workload = {
        "name": "book/web-1",
        "namespace": "default",
        "host": "vm",
        "proxy": proxy,
    }
    return {
        "control_plane": "cp",
        "workloads": [workload, workload | {"name": "book/off-1", "proxy": None}],
    }


def test_status_says_per_type_how_far_a_proxy_is() -> None:
    types = {
        "clusters": {"state": "SYNCED", "acked": "1"},
        "listeners": {"state": "NACKED", "acked": "1", "error": "bad listener"},
        "endpoints": {"state": "STALE", "acked": ""},
        "routes": {"state": "NOT SENT", "acked": ""},
    }
    (entry,) = status_entries(report(types))
    states = ["SYNCED", "NACKED", "STALE (Never Acknowledged)", "NOT SENT", "IGNORED"]
    assert status_row(entry) == ["book/web-1.default", "vm", *states, "cp", "1.40.0"]
    assert entry["errors"] == {"listeners": "bad listener"}


def test_a_comparison_shows_what_an_envoy_does_not_have() -> None:
    clusters = [
        {"cluster": {"name": "a", "type": "EDS"}},
        {"cluster": {"name": "b", "connect_timeout": "10s"}},
    ]
    routes = {
        "dynamic_route_configs": [
            {"route_config": {"name": "80"}, "last_updated": "2026-01-02T03:04:05.678Z"}
        ]
    }

    def listeners(share: float) -> dict[str, Any]:
        # Protobuf writes a whole number of a float field as 1.0, Envoy as 1.
        listener = {"name": "x", "random_sampling": {"value": share}}
        return {"dynamic_listeners": [{"active_state": {"listener": listener}}]}

    wanted = dump_of(
        Clusters={"dynamic_active_clusters": clusters},
        Routes=routes,
        Listeners=listeners(1.0),
    )
    held = dump_of(
        Clusters={
            "dynamic_active_clusters": [clusters[0]],
            "static_clusters": [{"cluster": {"name": "own"}}],
        },
        Routes=routes,
        Listeners=listeners(1),
    )
    missing, same, loaded = map(str, compare(wanted, held))
    assert missing.startswith(
        "Clusters Don't Match\n--- Istiod Clusters\n+++ Envoy Clusters\n"
    )
    assert '-      "connect_timeout": "10s"' in missing and "own" not in missing
    assert same == "Listeners Match"
    assert (
        loaded.startswith("Routes Match (RDS last loaded at ") and "Jan 2026" in loaded
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(
        ["Clusters", "Listeners", "Routes", "Endpoints", "Secrets", "Bootstrap"]
    ),
    JSON,
)
def test_a_dump_of_any_form_is_shown_or_refused_with_the_files_name(
    section: str, content: Any
) -> None:
    config = {
        "@type": f"{ADMIN}{section}ConfigDump",
        **(content if isinstance(content, dict) else {}),
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"configs": [config]}, file)
        file.flush()
        done = CliRunner().invoke(root, ["proxy-config", "all", "-f", file.name])
    assert done.exit_code == 0 or isinstance(done.exception, InputError), done.exception


def test_the_listener_for_metrics_is_not_a_gateways_own() -> None:
    def listener(name: str, port: int) -> dict[str, Any]:
        address = {"socket_address": {"address": "0.0.0.0", "port_value": port}}
        return {"active_state": {"listener": {"name": name, "address": address}}}

    own, metrics = listener("0.0.0.0_80", 80), listener("metrics", 15090)
    dump = dump_of(Listeners={"dynamic_listeners": [metrics, own]})
    found = gateway_listener(dump, 30080)
    assert found is not None and found["name"] == "0.0.0.0_80"
