"""Envoy's loggers for the providers of access logs: files, gRPC, OpenTelemetry.

A collector is a service of the mesh, called through its cluster. Where a proxy has no such cluster
Envoy drops the lines, and takes the listener all the same. Source: Istio's
`pilot/pkg/model/telemetry_logging.go`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import config_source_pb2, grpc_service_pb2
from envoy.extensions.access_loggers.file.v3 import file_pb2
from envoy.extensions.access_loggers.grpc.v3 import als_pb2
from envoy.extensions.access_loggers.open_telemetry.v3 import logs_service_pb2

from dockermesh.config.api.mesh_config import (
    GrpcLogProvider,
    OtlpLogProvider,
    Provider,
)
from dockermesh.translate.envoy.names import outbound_cluster
from dockermesh.translate.mesh.index import resolve_provider
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.telemetry.log_formats import (
    DEFAULT_TEXT,
    format_of_mesh,
    format_of_provider,
    formatters,
)
from dockermesh.translate.telemetry.merging import BUILT_IN

_STDOUT = "/dev/stdout"
_PEERS = ("upstream_peer", "downstream_peer")
Logger = tuple[str, Any]
"""The name of an extension of Envoy, and its settings."""


def file_logger(path: str, form: Any) -> Logger:
    """A logger that writes to a file."""
    config = file_pb2.FileAccessLog(path=path, log_format=form)
    return "envoy.access_loggers.file", config


def logger_of(
    provider: Provider, settings: MeshSettings, names: Mapping[str, str]
) -> Logger | None:
    """The provider's logger; None if it is no provider of access logs."""
    file = provider.envoy_file_access_log
    if file is not None:
        says_none = file.log_format is None and not file.omit_empty_values
        # Of the built-in one the format is the mesh's, as far as it says none itself.
        is_mesh = provider.name == BUILT_IN.name and says_none
        form = format_of_mesh(settings) if is_mesh else format_of_provider(file)
        return file_logger(file.path or _STDOUT, form)
    if provider.envoy_http_als is not None:
        return _http(provider.envoy_http_als, settings, names)
    if provider.envoy_tcp_als is not None:
        return _tcp(provider.envoy_tcp_als, settings, names)
    if provider.envoy_otel_als is not None:
        return _otlp(provider.envoy_otel_als, settings, names)
    return None


def collector_of(
    provider: Provider, settings: MeshSettings, names: Mapping[str, str]
) -> str:
    """The host to which the provider's lines go; none for a file."""
    remote = (
        provider.envoy_http_als or provider.envoy_tcp_als or provider.envoy_otel_als
    )
    if remote is None:
        return ""
    return resolve_provider(names, remote.service, settings.root_namespace)


def _http(
    provider: GrpcLogProvider, settings: MeshSettings, names: Mapping[str, str]
) -> Logger:
    common = _common(provider, settings, names, "http_envoy_accesslog")
    common.filter_state_objects_to_log.extend(
        provider.filter_state_objects_to_log or _PEERS
    )
    config = als_pb2.HttpGrpcAccessLogConfig(
        common_config=common,
        additional_request_headers_to_log=provider.additional_request_headers_to_log,
        additional_response_headers_to_log=provider.additional_response_headers_to_log,
        additional_response_trailers_to_log=provider.additional_response_trailers_to_log,
    )
    return "envoy.access_loggers.http_grpc", config


def _tcp(
    provider: GrpcLogProvider, settings: MeshSettings, names: Mapping[str, str]
) -> Logger:
    common = _common(provider, settings, names, "tcp_envoy_accesslog")
    common.filter_state_objects_to_log.extend(
        provider.filter_state_objects_to_log or _PEERS
    )
    config = als_pb2.TcpGrpcAccessLogConfig(common_config=common)
    return "envoy.access_loggers.tcp_grpc", config


def _otlp(
    provider: OtlpLogProvider, settings: MeshSettings, names: Mapping[str, str]
) -> Logger:
    said = provider.log_format
    body = (said.text if said is not None else "") or DEFAULT_TEXT
    labels = (said.labels if said is not None else None) or {}
    texts = {k: v for k, v in sorted(labels.items()) if isinstance(v, str)}

    config = logs_service_pb2.OpenTelemetryAccessLogConfig(
        common_config=_common(provider, settings, names, "otel_envoy_accesslog"),
        disable_builtin_labels=True,
        formatters=formatters(" ".join((body, *texts.values()))),
    )
    config.body.string_value = body
    for key, value in texts.items():
        config.attributes.values.add(key=key).value.string_value = value

    return "envoy.access_loggers.open_telemetry", config


def _common(
    provider: GrpcLogProvider | OtlpLogProvider,
    settings: MeshSettings,
    names: Mapping[str, str],
    name: str,
) -> Any:
    host = resolve_provider(names, provider.service, settings.root_namespace)
    envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(
        cluster_name=outbound_cluster(host, provider.port), authority=host
    )
    return als_pb2.CommonGrpcAccessLogConfig(
        log_name=provider.log_name or name,
        grpc_service=grpc_service_pb2.GrpcService(envoy_grpc=envoy),
        transport_api_version=config_source_pb2.ApiVersion.V3,
    )
