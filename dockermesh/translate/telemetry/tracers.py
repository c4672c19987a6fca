"""Envoy's tracers, and the clusters that they send spans to.

Envoy refuses a listener whose Zipkin collector is a cluster that it does not know or has not warmed
up. So a tracer sends to a cluster of its own, which is there at once: an aggregate of the
collector's, that holds also where a proxy has no such service. Spans wait for nobody: what a
collector does not take is dropped. Source: Istio's `pilot/pkg/networking/core/tracing.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import (
    base_pb2,
    extension_pb2,
    grpc_service_pb2,
    http_service_pb2,
)
from envoy.config.trace.v3 import http_tracer_pb2, opentelemetry_pb2, zipkin_pb2
from envoy.extensions.clusters.aggregate.v3 import cluster_pb2 as aggregate_pb2
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    dynatrace_resource_detector_pb2,
    environment_resource_detector_pb2,
)

from dockermesh.config.api.mesh_config import (
    ExportHeader,
    Provider,
    TraceContextOption,
    TracingProvider,
)
from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.translate.clusters.cluster import dns_cluster
from dockermesh.translate.envoy.names import outbound_cluster
from dockermesh.translate.envoy.packing import boolean, pack, seconds, uint32
from dockermesh.translate.mesh.index import resolve_provider
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls.mesh_tls import client_socket, named

_SPANS_PATH = "/api/v2/spans"
_OTLP_PATH = "/v1/traces"
_PATIENCE_S = 5.0
_CONNECT_S = 2.0
_MOST_AT_ONCE = 16
_OWN_CLUSTER = "dockermesh-spans"
_DETECTORS = "envoy.tracers.opentelemetry.resource_detectors"
_Zipkin = zipkin_pb2.ZipkinConfig
_Header = base_pb2.HeaderValueOption


@dataclass(frozen=True, slots=True)
class Tracer:
    """A tracer as Envoy has it, and the clusters that it needs."""

    provider: http_tracer_pb2.Tracing.Http
    clusters: tuple[cluster_pb2.Cluster, ...] = ()


def own_tracer(host: str, port: int) -> Tracer:
    """Spans to the control plane, which is at `host`, by mutual TLS."""
    config = _Zipkin(
        collector_cluster=_OWN_CLUSTER,
        collector_endpoint=_SPANS_PATH,
        collector_hostname=CONTROL_PLANE_HOST,
        collector_endpoint_version=_Zipkin.HTTP_JSON,
        trace_id_128bit=True,
        shared_span_context=boolean(False),
        trace_context_option=_Zipkin.USE_B3_WITH_W3C_PROPAGATION,
    )
    cluster = _bounded(_dns_cluster(_OWN_CLUSTER, host, port))
    servers = named([CONTROL_PLANE_HOST])
    socket = client_socket(CONTROL_PLANE_HOST, servers, http2=False)
    cluster.transport_socket.CopyFrom(socket)
    return Tracer(_http("zipkin", config), (cluster,))


def tracer_of(
    provider: Provider, settings: MeshSettings, names: Mapping[str, str]
) -> Tracer | None:
    """The provider's tracer; None if it is no provider of traces, or none that Envoy has here."""
    if provider.zipkin is not None:
        return _zipkin(provider.zipkin, settings, names)
    if provider.opentelemetry is not None:
        return _opentelemetry(provider.opentelemetry, settings, names)
    return None


def collector_of(
    provider: Provider, settings: MeshSettings, names: Mapping[str, str]
) -> str:
    """The host to which the provider's spans go."""
    remote = provider.zipkin or provider.opentelemetry
    return "" if remote is None else _host(remote, settings, names)


def _host(
    remote: TracingProvider, settings: MeshSettings, names: Mapping[str, str]
) -> str:
    found = resolve_provider(names, remote.service, settings.root_namespace)
    # What is no service is a name for DNS, as it stands.
    return found if found in names.values() else remote.service.rpartition("/")[2]


def _zipkin(
    remote: TracingProvider, settings: MeshSettings, names: Mapping[str, str]
) -> Tracer:
    host = _host(remote, settings, names)
    path = remote.path or _SPANS_PATH
    cluster = _collector(host, remote.port, names)
    # What Istio's proxies pass on if nothing is said is B3 alone; both join traces of either kind.
    only_b3 = remote.trace_context_option is TraceContextOption.USE_B3
    config = _Zipkin(
        collector_cluster=cluster.name,
        collector_endpoint=path,
        collector_hostname=host,
        collector_endpoint_version=_Zipkin.HTTP_JSON,
        trace_id_128bit=not remote.enable_64bit_trace_id,
        shared_span_context=boolean(False),
        trace_context_option=(
            _Zipkin.USE_B3 if only_b3 else _Zipkin.USE_B3_WITH_W3C_PROPAGATION
        ),
    )
    if remote.headers or remote.timeout is not None:
        uri = f"http://{host}:{remote.port}{path}"
        service = _service(uri, cluster.name, remote.timeout, remote.headers)
        config.collector_service.CopyFrom(service)
    return Tracer(_http("zipkin", config), (cluster,))


def _opentelemetry(
    remote: TracingProvider, settings: MeshSettings, names: Mapping[str, str]
) -> Tracer:
    host = _host(remote, settings, names)
    cluster = outbound_cluster(host, remote.port)
    config = opentelemetry_pb2.OpenTelemetryConfig()
    # The name of the service is in the proxy's environment, so that listeners can be shared.
    config.resource_detectors.append(
        _detector(
            "environment",
            environment_resource_detector_pb2.EnvironmentResourceDetectorConfig(),
        )
    )
    if remote.resource_detectors is not None and (
        remote.resource_detectors.dynatrace is not None
    ):
        config.resource_detectors.append(
            _detector(
                "dynatrace",
                dynatrace_resource_detector_pb2.DynatraceResourceDetectorConfig(),
            )
        )

    if remote.http is not None:
        path = f"/{remote.http.path.lstrip('/')}" if remote.http.path else _OTLP_PATH
        uri = f"http://{host}:{remote.port}{path}"
        config.http_service.CopyFrom(
            _service(uri, cluster, remote.http.timeout, remote.http.headers)
        )
        return Tracer(_http("opentelemetry", config))

    said = remote.grpc
    envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(cluster_name=cluster, authority=host)
    config.grpc_service.envoy_grpc.CopyFrom(envoy)
    config.grpc_service.timeout.CopyFrom(_patience(said.timeout if said else None))
    for header in said.initial_metadata if said is not None else ():
        if header.value is not None:
            config.grpc_service.initial_metadata.add(
                key=header.name.lower(), value=header.value
            )
    return Tracer(_http("opentelemetry", config))


def _collector(host: str, port: int, names: Mapping[str, str]) -> cluster_pb2.Cluster:
    """The cluster of a collector: a service of the mesh, or a name that DNS knows."""
    name = f"spans|{port}||{host}"
    if host not in names.values():
        return _bounded(_dns_cluster(name, host, port))
    cluster = cluster_pb2.Cluster(
        name=name,
        connect_timeout=seconds(_CONNECT_S),
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
    )
    kind = cluster.cluster_type
    kind.name = "envoy.clusters.aggregate"
    kind.typed_config.CopyFrom(
        pack(aggregate_pb2.ClusterConfig(clusters=[outbound_cluster(host, port)]))
    )
    return cluster


def _dns_cluster(name: str, host: str, port: int) -> cluster_pb2.Cluster:
    cluster = dns_cluster(name, host, port)
    cluster.connect_timeout.CopyFrom(seconds(_CONNECT_S))
    cluster.dns_lookup_family = cluster_pb2.Cluster.V4_ONLY
    # No listener waits for an answer.
    cluster.wait_for_warm_on_init.CopyFrom(boolean(False))
    return cluster


def _bounded(cluster: cluster_pb2.Cluster) -> cluster_pb2.Cluster:
    # What a slow collector has not taken is little, and the rest is dropped.
    cluster.circuit_breakers.thresholds.add(
        max_connections=uint32(_MOST_AT_ONCE),
        max_pending_requests=uint32(_MOST_AT_ONCE),
        max_requests=uint32(_MOST_AT_ONCE),
    )
    return cluster


def _service(
    uri: str,
    cluster: str,
    timeout: timedelta | None,
    headers: Iterable[ExportHeader],
) -> http_service_pb2.HttpService:
    service = http_service_pb2.HttpService()
    service.http_uri.uri = uri
    service.http_uri.cluster = cluster
    service.http_uri.timeout.CopyFrom(_patience(timeout))
    for header in headers:
        if header.value is not None:
            service.request_headers_to_add.add(
                header=base_pb2.HeaderValue(key=header.name, value=header.value),
                append_action=_Header.OVERWRITE_IF_EXISTS_OR_ADD,
            )
    return service


def _patience(timeout: timedelta | None) -> Any:
    return seconds(timeout.total_seconds() if timeout is not None else _PATIENCE_S)


def _detector(name: str, config: Any) -> extension_pb2.TypedExtensionConfig:
    return extension_pb2.TypedExtensionConfig(
        name=f"{_DETECTORS}.{name}", typed_config=pack(config)
    )


def _http(name: str, config: Any) -> http_tracer_pb2.Tracing.Http:
    return http_tracer_pb2.Tracing.Http(
        name=f"envoy.tracers.{name}", typed_config=pack(config)
    )
