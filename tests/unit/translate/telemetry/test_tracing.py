"""Traces in the listeners of proxies: by whom, how often, with what, and whom spans go to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from envoy.config.trace.v3 import opentelemetry_pb2, zipkin_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.request_id.uuid.v3 import uuid_pb2
from meshes import GATEWAY_AT_80, catalog, edge, gateway, messages, service, sidecar

from dockermesh.translate.envoy.constraints import violation
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator

SERVICES = [service("reviews", "10.0.0.1"), service("zipkin", "10.0.0.9", port=9411)]
SIDECAR = sidecar("reviews-1", 9080)
GATEWAY = gateway({"istio": "ingressgateway"})
OWN = MeshSettings(spans_port=9411)
PROVIDERS = """
kind: MeshConfig
spec:
  extensionProviders:
  - {name: z, zipkin: {service: zipkin, port: 9411, maxTagLength: 99, traceContextOption: USE_B3,
     enable64bitTraceId: true}}
  - {name: o, opentelemetry: {service: zipkin, port: 9411}}
  - {name: dd, datadog: {service: zipkin, port: 9411}}
"""


def telemetry(tracing: str, namespace: str = "istio-system", more: str = "") -> str:
    head = "apiVersion: telemetry.istio.io/v1, kind: Telemetry"
    meta = f"{{name: t-{namespace}, namespace: {namespace}}}"
    return f"{{{head}, metadata: {meta}, spec: {{{more} tracing: [{tracing}]}}}}"


def translator(*documents: str, settings: MeshSettings = OWN) -> Translator:
    made = Translator()
    config = edge("\n---\n".join((GATEWAY_AT_80, *documents)))
    made.update(build_mesh(catalog(SERVICES), config=config, settings=settings))
    return made


def managers(made: Translator, proxy: Proxy) -> dict[str, list[Any]]:
    """The connection managers of all listeners, by the listener."""
    found: dict[str, list[Any]] = {}
    for name, listener in messages(made.snapshot(proxy), "listeners").items():
        assert not violation(listener), name
        for chain in (*listener.filter_chains, listener.default_filter_chain):
            for part in chain.filters:
                manager = hcm_pb2.HttpConnectionManager()
                if part.typed_config.Unpack(manager):
                    found.setdefault(name, []).append(manager)
    return found


def tracing(made: Translator, proxy: Proxy, *, inbound: bool = False) -> Any:
    """How all connection managers of one side trace: they agree."""
    every = [
        manager
        for name, of in managers(made, proxy).items()
        if (name == "virtualInbound") == inbound
        for manager in of
    ]
    assert every
    assert len({m.tracing.SerializeToString() for m in every}) == 1
    assert len({m.HasField("tracing") for m in every}) == 1
    return every[0].tracing if every[0].HasField("tracing") else None


def zipkin(of: Any) -> zipkin_pb2.ZipkinConfig:
    config = zipkin_pb2.ZipkinConfig()
    assert of.provider.typed_config.Unpack(config)
    return config


def test_without_a_word_the_control_plane_takes_one_of_a_hundred() -> None:
    made = translator()
    for proxy, inbound in ((SIDECAR, False), (SIDECAR, True), (GATEWAY, False)):
        found = tracing(made, proxy, inbound=inbound)
        assert found.random_sampling.value == 1
        assert found.spawn_upstream_span.value == (proxy is GATEWAY)
        config = zipkin(found)
        assert config.trace_context_option == config.USE_B3_WITH_W3C_PROPAGATION
        cluster = messages(made.snapshot(proxy), "clusters")[config.collector_cluster]
        assert cluster.HasField("transport_socket")
        address = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint.address
        assert address.socket_address.address == "control-plane.dockermesh"


def test_a_proxy_finds_its_control_plane_where_its_bootstrap_does() -> None:
    made = translator()
    far = replace(SIDECAR, metadata={"CONTROL_PLANE": "10.1.2.3"})
    bad = replace(SIDECAR, metadata={"CONTROL_PLANE": "a b"})
    hosts = [
        messages(made.snapshot(p), "clusters")["dockermesh-spans"]
        .load_assignment.endpoints[0]
        .lb_endpoints[0]
        .endpoint.address.socket_address.address
        for p in (far, bad)
    ]
    assert hosts == ["10.1.2.3", "control-plane.dockermesh"]
    plain, told = made.snapshot(SIDECAR), made.snapshot(far)
    assert plain.listeners.own.values() != ()
    assert plain.listeners.version == told.listeners.version


@pytest.mark.parametrize(
    ("settings", "proxy", "documents"),
    [
        (MeshSettings(), SIDECAR, ()),
        (OWN, replace(SIDECAR, has_certificate=False), ()),
        (OWN, SIDECAR, ("{kind: MeshConfig, spec: {enableTracing: false}}",)),
        (OWN, SIDECAR, (telemetry("{disableSpanReporting: true}"),)),
        (OWN, SIDECAR, (telemetry("{providers: [{name: gone}]}"),)),
        (OWN, SIDECAR, (telemetry("{providers: [{name: envoy}]}"),)),
    ],
)
def test_nothing_is_traced(
    settings: MeshSettings, proxy: Proxy, documents: tuple[str, ...]
) -> None:
    made = translator(*documents, settings=settings)
    assert tracing(made, proxy) is None
    assert not {"dockermesh-spans"} & messages(made.snapshot(proxy), "clusters").keys()


def test_a_lower_level_refines_what_those_above_it_say_field_by_field() -> None:
    mesh = "{randomSamplingPercentage: 10, customTags: {a: {literal: {value: m}}}}"
    own = "{randomSamplingPercentage: 50}"
    one = "{enableIstioTags: false, useRequestIdForTraceSampling: false}"
    select = "selector: {matchLabels: {app: reviews}},"
    made = translator(
        telemetry(mesh), telemetry(own, "default"), telemetry(one, "default", select)
    )
    found = tracing(made, SIDECAR)
    # Of one namespace the oldest, which is for all of it, and the one that selects.
    assert found.random_sampling.value in {10, 50}
    assert {t.tag for t in found.custom_tags} >= {"a"}
    assert tracing(made, GATEWAY).random_sampling.value == 10


def test_each_mode_has_what_is_said_for_it() -> None:
    made = translator(
        telemetry(
            "{match: {mode: CLIENT}, disableSpanReporting: true},"
            "{match: {mode: SERVER}, randomSamplingPercentage: 0}"
        )
    )
    assert tracing(made, SIDECAR) is None
    assert tracing(made, SIDECAR, inbound=True).random_sampling.value == 0
    # A gateway is a client of the mesh.
    assert tracing(made, GATEWAY) is None


def test_tags_are_istios_and_the_users() -> None:
    tags = (
        "{b: {environment: {name: B, defaultValue: x}}, a: {header: {name: h}},"
        " c: {formatter: {value: '%PROTOCOL%'}}, istio.namespace: {literal: {value: n}}}"
    )
    found = tracing(translator(telemetry(f"{{customTags: {tags}}}")), SIDECAR)
    assert [tag.tag for tag in found.custom_tags] == [
        "istio.canonical_revision",
        "istio.canonical_service",
        "istio.cluster_id",
        "istio.mesh_id",
        "a",
        "b",
        "c",
        "istio.namespace",
    ]
    by_name = {tag.tag: tag for tag in found.custom_tags}
    assert by_name["b"].environment.default_value == "x"
    assert by_name["a"].request_header.name == "h"
    assert by_name["c"].value == "%PROTOCOL%"
    assert by_name["istio.namespace"].literal.value == "n"
    none = tracing(translator(telemetry("{enableIstioTags: false}")), SIDECAR)
    assert [*none.custom_tags] == []


def test_the_mesh_says_what_no_telemetry_does() -> None:
    mesh = """
kind: MeshConfig
spec:
  defaultConfig:
    tracing:
      {sampling: 25, maxPathTagLength: 32, customTags: {m: {literal: {value: v}}}, enableIstioTags: false}
"""
    found = tracing(translator(mesh), SIDECAR)
    assert (found.random_sampling.value, found.max_path_tag_length.value) == (25, 32)
    assert [tag.tag for tag in found.custom_tags] == ["m"]


def test_the_old_way_names_a_collector_in_the_default_config() -> None:
    mesh = """
kind: MeshConfig
spec: {enableTracing: true, defaultConfig: {tracing: {zipkin: {address: "zipkin:9411"}}}}
"""
    made = translator(mesh)
    assert zipkin(tracing(made, SIDECAR)).collector_hostname == "zipkin.service.consul"
    assert made.findings("MeshConfig istio-system/default") == ()


def test_a_request_id_need_not_decide() -> None:
    made = translator(telemetry("{useRequestIdForTraceSampling: false}"))
    for of in managers(made, SIDECAR).values():
        for manager in of:
            config = uuid_pb2.UuidRequestIdConfig()
            assert manager.request_id_extension.typed_config.Unpack(config)
            assert config.use_request_id_for_trace_sampling.value is False


def test_providers_are_zipkin_and_opentelemetry() -> None:
    made = translator(PROVIDERS, telemetry("{providers: [{name: Z}]}"))
    found = tracing(made, SIDECAR)
    config = zipkin(found)
    assert found.max_path_tag_length.value == 99
    assert config.trace_context_option == config.USE_B3
    assert not config.trace_id_128bit
    assert config.collector_endpoint == "/api/v2/spans"
    cluster = messages(made.snapshot(SIDECAR), "clusters")[config.collector_cluster]
    assert cluster.cluster_type.name == "envoy.clusters.aggregate"

    made = translator(PROVIDERS, telemetry("{providers: [{name: o}]}"))
    otlp = opentelemetry_pb2.OpenTelemetryConfig()
    assert tracing(made, SIDECAR).provider.typed_config.Unpack(otlp)
    name = otlp.grpc_service.envoy_grpc.cluster_name
    assert name == "outbound|9411||zipkin.service.consul"
    assert name in messages(made.snapshot(SIDECAR), "clusters")


def test_the_default_provider_counts_where_none_is_named_and_the_control_plane_has_a_name() -> (
    None
):
    mesh = PROVIDERS + "  defaultProviders: {tracing: [z]}\n"
    assert zipkin(tracing(translator(mesh), SIDECAR)).collector_cluster.startswith(
        "spans|9411"
    )
    own = telemetry("{providers: [{name: dockermesh}]}")
    found = zipkin(tracing(translator(mesh, own), SIDECAR))
    assert found.collector_cluster == "dockermesh-spans"


def test_what_goes_nowhere_is_told() -> None:
    def told(tracing: str) -> list[str]:
        made = translator(PROVIDERS, telemetry(tracing))
        found = made.findings("Telemetry istio-system/t-istio-system")
        return [finding.message for finding in found]

    assert told("{randomSamplingPercentage: 5}") == []
    assert told("{providers: [{name: dockermesh}]}") == []
    (gone,) = told("{providers: [{name: gone}]}")
    assert gone.startswith("spec.tracing[0].providers[0].name: MeshConfig has no")
    (other,) = told("{providers: [{name: dd}]}")
    assert "use zipkin or opentelemetry" in other
    (context,) = told("{disableContextPropagation: true}")
    assert "disableContextPropagation" in context


def test_proxies_in_one_position_share_their_listeners() -> None:
    made = translator(telemetry("{randomSamplingPercentage: 7}"))
    other = sidecar("reviews-2", 9080)
    assert made.snapshot(SIDECAR).listeners is made.snapshot(other).listeners
    assert made.snapshot(SIDECAR).clusters is made.snapshot(other).clusters
