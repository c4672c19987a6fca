"""MeshConfig: the settings of the whole mesh that dockermesh honours, by Istio's names.

Every other field of Istio's MeshConfig is accepted with a warning that it has no effect (see
`rules/mesh_config.py`), so that a file from a Kubernetes mesh can be reused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from dockermesh.config.api.common import LocalityLoadBalancerSetting
from dockermesh.config.api.destination_rule import (
    ClientTlsSettings,
    H2UpgradePolicy,
    TcpKeepalive,
)
from dockermesh.config.api.gateway import TlsProtocol
from dockermesh.config.api.telemetry import CustomTag
from dockermesh.config.api.virtual_service import HTTPRetry
from dockermesh.config.fields import REQUIRED, Duration, Length, Quotable, Range
from dockermesh.config.fields import UInt32 as _UInt32

UInt32 = Annotated[_UInt32, Quotable()]
"""Istio reads its MeshConfig as protobuf's JSON."""


class OutboundPolicyMode(StrEnum):
    """What happens to traffic to unknown destinations."""

    REGISTRY_ONLY = "REGISTRY_ONLY"
    ALLOW_ANY = "ALLOW_ANY"
    ALLOW_ANY_DYNAMIC_DNS = "ALLOW_ANY_DYNAMIC_DNS"


class InboundPolicyMode(StrEnum):
    """What happens to traffic to unknown ports of a workload."""

    PASSTHROUGH = "PASSTHROUGH"
    LOCALHOST = "LOCALHOST"


class AccessLogEncoding(StrEnum):
    """The form of access log lines."""

    TEXT = "TEXT"
    JSON = "JSON"


class NormalizationType(StrEnum):
    """How request paths are normalised before they are matched."""

    DEFAULT = "DEFAULT"
    NONE = "NONE"
    BASE = "BASE"
    MERGE_SLASHES = "MERGE_SLASHES"
    DECODE_AND_MERGE_SLASHES = "DECODE_AND_MERGE_SLASHES"


@dataclass(frozen=True, slots=True)
class OutboundPolicy:
    """What happens to traffic to unknown destinations."""

    mode: OutboundPolicyMode = OutboundPolicyMode.ALLOW_ANY


@dataclass(frozen=True, slots=True)
class InboundPolicy:
    """What happens to traffic to unknown ports of a workload."""

    mode: InboundPolicyMode = InboundPolicyMode.PASSTHROUGH


@dataclass(frozen=True, slots=True)
class ProxyPathNormalization:
    """How request paths are normalised."""

    # DEFAULT is BASE, as in Istio.
    normalization: NormalizationType = NormalizationType.DEFAULT


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Limits of TLS."""

    min_protocol_version: TlsProtocol = TlsProtocol.TLS_AUTO
    ecdh_curves: tuple[str, ...] = ()
    cipher_suites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogFormat:
    """The format of a provider's log lines."""

    ONEOFS: ClassVar = (("text", "labels"),)
    text: str | None = None
    # JSON instead of a line of text.
    labels: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class EnvoyFileAccessLogProvider:
    """Access logs to a file of the proxy."""

    path: str = ""
    log_format: LogFormat | None = None
    omit_empty_values: bool = False


@dataclass(frozen=True, slots=True)
class GrpcLogProvider:
    """Access logs by gRPC."""

    service: str = field(default="", metadata=REQUIRED)
    port: UInt32 = field(default=0, metadata=REQUIRED)
    log_name: str = ""
    filter_state_objects_to_log: tuple[str, ...] = ()
    additional_request_headers_to_log: tuple[str, ...] = ()
    additional_response_headers_to_log: tuple[str, ...] = ()
    additional_response_trailers_to_log: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OtlpLogProvider:
    """Access logs by OpenTelemetry."""

    service: str = field(default="", metadata=REQUIRED)
    port: UInt32 = field(default=0, metadata=REQUIRED)
    log_name: str = ""
    log_format: LogFormat | None = None


class TraceContextOption(StrEnum):
    """Which headers pass a trace on."""

    # Nothing said is both, here; in Istio it is B3 alone.
    UNSPECIFIED = "TRACE_CONTEXT_OPTION_UNSPECIFIED"
    USE_B3 = "USE_B3"
    USE_B3_WITH_W3C_PROPAGATION = "USE_B3_WITH_W3C_PROPAGATION"


@dataclass(frozen=True, slots=True)
class ExportHeader:
    """A header of what is sent to a collector. One from istiod's environment is not sent."""

    ONEOFS: ClassVar = (("value", "env_name"),)
    name: str = field(default="", metadata=REQUIRED)
    value: str | None = None
    env_name: str | None = None


@dataclass(frozen=True, slots=True)
class HttpExport:
    """Spans by HTTP."""

    path: str = ""
    timeout: Duration | None = None
    headers: tuple[ExportHeader, ...] = ()


@dataclass(frozen=True, slots=True)
class GrpcExport:
    """Spans by gRPC."""

    timeout: Duration | None = None
    initial_metadata: tuple[ExportHeader, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceDetectors:
    """What a proxy finds out about where it runs."""

    environment: Mapping[str, Any] | None = None
    dynatrace: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class TracingProvider:
    """A collector of spans, by its service and port."""

    service: str = field(default="", metadata=REQUIRED)
    port: UInt32 = field(default=0, metadata=REQUIRED)
    max_tag_length: UInt32 = 0
    enable_64bit_trace_id: bool = field(
        default=False, metadata={"json": "enable64bitTraceId"}
    )
    path: str = ""
    access_token: str = ""
    http: HttpExport | None = None
    grpc: GrpcExport | None = None
    resource_detectors: ResourceDetectors | None = None
    trace_context_option: TraceContextOption = TraceContextOption.UNSPECIFIED
    timeout: Duration | None = None
    headers: tuple[ExportHeader, ...] = ()


@dataclass(frozen=True, slots=True)
class PrometheusProvider:
    """Metrics in Prometheus' format."""


@dataclass(frozen=True, slots=True)
class AuthorizationRequestBody:
    """How much of a body an external authorizer gets."""

    max_request_bytes: UInt32 = 0
    # Else a longer body is answered with 413.
    allow_partial_message: bool = False
    pack_as_bytes: bool = False


@dataclass(frozen=True, slots=True)
class ExternalAuthorizationProvider:
    """An external authorizer, by HTTP or by gRPC."""

    service: str = field(default="", metadata=REQUIRED)
    port: UInt32 = field(default=0, metadata=REQUIRED)
    timeout: Duration | None = None
    # Whether requests pass while the authorizer cannot be asked.
    fail_open: bool = False
    clear_route_cache: bool = False
    status_on_error: str = ""
    # Only by HTTP: put before the path of each request.
    path_prefix: str = ""
    # The older form of the next field.
    include_request_headers_in_check: tuple[str, ...] = ()
    include_headers_in_check: tuple[str, ...] = ()
    include_additional_headers_in_check: Mapping[str, str] = field(default_factory=dict)
    include_request_body_in_check: AuthorizationRequestBody | None = None
    headers_to_upstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_allow: tuple[str, ...] = ()
    headers_to_downstream_on_deny: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Provider:
    """A named provider of telemetry or authorization."""

    ONEOFS: ClassVar = (
        (
            "envoy_file_access_log",
            "envoy_http_als",
            "envoy_tcp_als",
            "envoy_otel_als",
            "zipkin",
            "opentelemetry",
            "datadog",
            "lightstep",
            "skywalking",
            "opencensus",
            "stackdriver",
            "prometheus",
            "envoy_ext_authz_http",
            "envoy_ext_authz_grpc",
            "sds",
        ),
    )
    name: str = field(default="", metadata=REQUIRED)
    envoy_file_access_log: EnvoyFileAccessLogProvider | None = None
    envoy_http_als: GrpcLogProvider | None = None
    envoy_tcp_als: GrpcLogProvider | None = None
    envoy_otel_als: OtlpLogProvider | None = None
    zipkin: TracingProvider | None = None
    opentelemetry: TracingProvider | None = None
    datadog: TracingProvider | None = None
    lightstep: TracingProvider | None = None
    skywalking: TracingProvider | None = None
    opencensus: Mapping[str, Any] | None = None
    stackdriver: Mapping[str, Any] | None = None
    prometheus: PrometheusProvider | None = None
    envoy_ext_authz_http: ExternalAuthorizationProvider | None = None
    envoy_ext_authz_grpc: ExternalAuthorizationProvider | None = None
    sds: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DefaultProviders:
    """The providers used where Telemetry names none."""

    tracing: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    access_logging: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CollectorAddress:
    """The address of a collector of spans."""

    address: str = ""
    access_token: str = ""


@dataclass(frozen=True, slots=True)
class MeshTracing:
    """Tracing set the old way, in the default proxy settings."""

    ONEOFS: ClassVar = (
        ("zipkin", "lightstep", "datadog", "stackdriver", "open_census_agent"),
    )
    zipkin: CollectorAddress | None = None
    lightstep: CollectorAddress | None = None
    datadog: CollectorAddress | None = None
    stackdriver: Mapping[str, Any] | None = None
    open_census_agent: Mapping[str, Any] | None = None
    # None: 1 %.
    sampling: Annotated[float, Range(0, 100)] | None = None
    max_path_tag_length: UInt32 = 0
    custom_tags: Mapping[str, CustomTag] = field(default_factory=dict)
    tls_settings: ClientTlsSettings | None = None
    enable_istio_tags: bool | None = None


@dataclass(frozen=True, slots=True)
class GatewayTopology:
    """What stands in front of the gateways."""

    # How many entries of X-Forwarded-For, from the end, are believed.
    num_trusted_proxies: UInt32 = 0
    forward_client_cert_details: str = ""
    proxy_protocol: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class DefaultProxyConfig:
    """Settings of all proxies."""

    IGNORED: ClassVar = frozenset(
        {
            "configPath",
            "binaryPath",
            "serviceCluster",
            "tracingServiceName",
            "zipkinAddress",
            "statNameLength",
            "proxyAdminPort",
            "controlPlaneAuthPolicy",
            "customConfigFile",
            "availabilityZone",
            "proxyBootstrapTemplatePath",
            "interceptionMode",
            "sds",
            "envoyAccessLogService",
            "envoyMetricsService",
            "envoyMetricsServiceAddress",
            "statusPort",
            "extraStatTags",
            "proxyStatsMatcher",
            "readinessProbe",
            "caCertificatesPem",
            "image",
            "privateKeyProvider",
            "proxyHeaders",
            "runtimeValues",
            "fileFlushInterval",
            "fileFlushMinSizeKb",
            "statsCompression",
            "connectionSettings",
            "meshId",
            "parentShutdownDuration",
            "connectTimeout",
        }
    )

    concurrency: UInt32 | None = None
    drain_duration: Duration | None = None
    termination_drain_duration: Duration | None = None
    hold_application_until_proxy_starts: bool | None = None
    tracing: MeshTracing | None = None
    gateway_topology: GatewayTopology | None = None
    proxy_metadata: Mapping[str, str] = field(default_factory=dict)
    discovery_address: str = ""
    statsd_udp_address: str = ""


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """The settings of the whole mesh; None means dockermesh's default."""

    IGNORED: ClassVar = frozenset(
        {
            "proxyListenPort",
            "proxyInboundListenPort",
            "proxyHttpPort",
            "ingressClass",
            "ingressService",
            "ingressControllerMode",
            "ingressSelector",
            "enableEnvoyAccessLogService",
            "disableEnvoyListenerLog",
            "configSources",
            "discoverySelectors",
            "serviceSettings",
            "caCertificates",
            "certificates",
            "ca",
            "thriftConfig",
            "disableMixerHttpReports",
            "mixerCheckServer",
            "mixerReportServer",
            "reportBatchMaxEntries",
            "reportBatchMaxTime",
            "sidecarToTelemetrySessionAffinity",
            "policyCheckFailOpen",
            "disablePolicyChecks",
            "enableClientSidePolicyCheck",
            "sdsUdsPath",
            "sdsRefreshDelay",
            "enableSdsTokenMount",
            "sdsUseK8sSaJwt",
            "authPolicy",
            "rdsRefreshDelay",
            "serviceScopeConfigs",
            "hboneIdleTimeout",
            "defaultTrafficPolicy",
            "zoneAwareLbSetting",
            "serviceEntryVisibility",
            "localityLbSettings",
        }
    )

    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: AccessLogEncoding = AccessLogEncoding.TEXT
    # False turns off what Istio has to be asked for: the control plane's own taking of spans.
    enable_tracing: bool | None = None
    outbound_traffic_policy: OutboundPolicy | None = None
    inbound_traffic_policy: InboundPolicy | None = None
    default_http_retry_policy: HTTPRetry | None = None
    extension_providers: Annotated[tuple[Provider, ...], Length(high=1000)] = ()
    default_providers: DefaultProviders | None = None
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    root_namespace: str = ""
    default_config: DefaultProxyConfig | None = None
    path_normalization: ProxyPathNormalization | None = None
    protocol_detection_timeout: Duration | None = None
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    enable_auto_mtls: bool | None = None
    h2_upgrade_policy: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    mesh_mtls: TlsConfig | None = field(default=None, metadata={"json": "meshMTLS"})
    tls_defaults: TlsConfig | None = None
    default_service_export_to: tuple[str, ...] = ()
    default_virtual_service_export_to: tuple[str, ...] = ()
    default_destination_rule_export_to: tuple[str, ...] = ()
    dns_refresh_rate: Duration | None = None
    verify_certificate_at_client: bool | None = None
    enable_prometheus_merge: bool | None = None
