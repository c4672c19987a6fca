"""Mesh-wide settings and the Istio resources, as translation sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from typing import Any

from dockermesh.config.api.authorization_policy import AuthorizationPolicy
from dockermesh.config.api.common import LocalityLoadBalancerSetting
from dockermesh.config.api.destination_rule import (
    DestinationRule,
    H2UpgradePolicy,
    TcpKeepalive,
)
from dockermesh.config.api.envoy_filter import EnvoyFilter
from dockermesh.config.api.extensions import WasmPlugin
from dockermesh.config.api.gateway import Gateway, TlsProtocol
from dockermesh.config.api.mesh_config import (
    AccessLogEncoding,
    DefaultProxyConfig,
    GatewayTopology,
    MeshConfig,
    MeshTracing,
    NormalizationType,
    OutboundPolicyMode,
    Provider,
)
from dockermesh.config.api.peer_authentication import PeerAuthentication
from dockermesh.config.api.proxy_config import ProxyConfig
from dockermesh.config.api.rate_limit import RateLimit
from dockermesh.config.api.rate_limit_config import RateLimitConfig
from dockermesh.config.api.request_authentication import RequestAuthentication
from dockermesh.config.api.service_entry import ServiceEntry
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.telemetry import Telemetry
from dockermesh.config.api.virtual_service import HTTPRetry, VirtualService
from dockermesh.config.api.workload import WorkloadEntry
from dockermesh.config.fields import camel_case, json_name
from dockermesh.config.resource import Resource
from dockermesh.model.contract import (
    CONTROL_PLANE_HOST,
    DEFAULT_SERVICE_DOMAIN,
    DEFAULT_TRUST_DOMAIN,
    LIMITER_PORT,
    SYSTEM_NAMESPACE,
)


@dataclass(frozen=True, slots=True)
class MeshSettings:
    """What applies to every proxy.

    `hold_attempts`: how often a request that no app has seen yet is tried again, with back-off from
    50 ms to 1 s; 20 attempts hold it for about 10 s, longer than an app or a pod takes to restart.
    0 fails it at once. `service_domain`: what the host names of services end with, by the control
    plane's settings. `allow_any`: pass connections to unknown destinations through (Istio:
    outboundTrafficPolicy.mode ALLOW_ANY); otherwise they are refused (REGISTRY_ONLY). `retries` is
    the user's own default, in place of holding. `verify_certificates`: check servers against the
    system's roots where a rule names none. `auto_mtls`: use mutual TLS wherever the endpoint's
    proxy takes it and no rule says otherwise. `normalization`: by default BASE (Istio's default,
    without which `/x/../admin` slips past a policy; `//admin` still does) where something decides
    by what requests say, and none elsewhere. `access_log_providers`: those that log where Telemetry
    names none; `metric_providers` and `tracing_providers` the same for metrics and traces. At
    `spans_port`, unless it is 0, the control plane takes spans itself. Times are in seconds.
    """

    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_domain: str = DEFAULT_SERVICE_DOMAIN
    auto_mtls: bool = True
    minimum_tls: TlsProtocol = TlsProtocol.TLS_AUTO
    hold_attempts: int = 20
    allow_any: bool = True
    root_namespace: str = SYSTEM_NAMESPACE
    retries: HTTPRetry | None = None
    connect_timeout: float = 10.0
    detection_timeout: float = 5.0
    tcp_keepalive: TcpKeepalive | None = None
    h2_upgrade: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    locality: LocalityLoadBalancerSetting | None = None
    verify_certificates: bool = True
    normalization: NormalizationType = NormalizationType.DEFAULT
    service_export_to: tuple[str, ...] = ()
    virtual_service_export_to: tuple[str, ...] = ()
    destination_rule_export_to: tuple[str, ...] = ()
    trust_domain_aliases: tuple[str, ...] = ()
    extension_providers: tuple[Provider, ...] = ()
    gateway_topology: GatewayTopology | None = None
    access_log_file: str = ""
    access_log_format: str = ""
    access_log_encoding: AccessLogEncoding = AccessLogEncoding.TEXT
    access_log_providers: tuple[str, ...] = ()
    metric_providers: tuple[str, ...] = ("prometheus",)
    limiter: str = f"{CONTROL_PLANE_HOST}:{LIMITER_PORT}"
    enable_tracing: bool | None = None
    tracing: MeshTracing | None = None
    tracing_providers: tuple[str, ...] = ()
    spans_port: int = 0


def with_mesh_config(settings: MeshSettings, config: MeshConfig) -> MeshSettings:
    """The settings with what a MeshConfig says; what it leaves out stays."""
    changes: dict[str, Any] = {
        "trust_domain": config.trust_domain,
        "root_namespace": config.root_namespace,
        "retries": config.default_http_retry_policy,
        "tcp_keepalive": config.tcp_keepalive,
        "locality": config.locality_lb_setting,
        "service_export_to": config.default_service_export_to,
        "virtual_service_export_to": config.default_virtual_service_export_to,
        "destination_rule_export_to": config.default_destination_rule_export_to,
        "trust_domain_aliases": config.trust_domain_aliases,
        "extension_providers": config.extension_providers,
        "access_log_file": config.access_log_file,
        "access_log_format": config.access_log_format,
        "access_log_encoding": config.access_log_encoding,
    }
    changes = {name: value for name, value in changes.items() if value}
    # Of these `false` and `0s` say something, too.
    changes |= _given(
        connect_timeout=_seconds(config.connect_timeout),
        detection_timeout=_seconds(config.protocol_detection_timeout),
        verify_certificates=config.verify_certificate_at_client,
        auto_mtls=config.enable_auto_mtls,
        enable_tracing=config.enable_tracing,
    )

    if config.outbound_traffic_policy is not None:
        changes["allow_any"] = (
            config.outbound_traffic_policy.mode is not OutboundPolicyMode.REGISTRY_ONLY
        )

    if config.default_config is not None:
        changes |= _given(
            gateway_topology=config.default_config.gateway_topology,
            tracing=config.default_config.tracing,
        )
    if config.default_providers is not None:
        changes["access_log_providers"] = config.default_providers.access_logging
        # None is no choice: whoever names providers of logs did not speak of metrics.
        if config.default_providers.metrics:
            changes["metric_providers"] = config.default_providers.metrics
        changes["tracing_providers"] = config.default_providers.tracing
    if config.h2_upgrade_policy is not H2UpgradePolicy.DEFAULT:
        changes["h2_upgrade"] = config.h2_upgrade_policy
    if config.mesh_mtls is not None:
        changes["minimum_tls"] = config.mesh_mtls.min_protocol_version

    if config.path_normalization is not None:
        changes["normalization"] = config.path_normalization.normalization

    return replace(settings, **changes)


def _given(**values: object) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _seconds(duration: timedelta | None) -> float | None:
    return duration.total_seconds() if duration is not None else None


_WITHOUT_EFFECT = (
    "inbound_traffic_policy",
    "tls_defaults",
    "dns_refresh_rate",
    "enable_prometheus_merge",
)


def without_effect(config: MeshConfig) -> Iterator[str]:
    """The fields, by their place in the spec, that a MeshConfig sets and nothing reads yet."""
    nothing = MeshConfig()
    yield from (
        camel_case(n)
        for n in _WITHOUT_EFFECT
        if getattr(config, n) != getattr(nothing, n)
    )
    if config.default_config is not None:
        defaults = DefaultProxyConfig()
        for field in fields(defaults):
            is_set = getattr(config.default_config, field.name) != getattr(
                defaults, field.name
            )
            # Apps always wait for their proxies.
            is_so = (
                field.name == _HOLD
                and config.default_config.hold_application_until_proxy_starts
            )
            if is_set and not is_so and field.name not in _OF_DEFAULT_CONFIG:
                yield f"defaultConfig.{json_name(field)}"
        yield from _tracing_without_effect(config.default_config.tracing)


_HOLD = "hold_application_until_proxy_starts"
_OF_DEFAULT_CONFIG = frozenset(
    {
        "gateway_topology",
        "tracing",
        # What proxies are started with, by `up`.
        "concurrency",
        "drain_duration",
        "proxy_metadata",
    }
)


def _tracing_without_effect(tracing: MeshTracing | None) -> Iterator[str]:
    for name in ("lightstep", "datadog", "stackdriver", "open_census_agent"):
        if getattr(tracing, name, None) is not None:
            yield f"defaultConfig.tracing.{camel_case(name)}"
    if tracing is not None and tracing.tls_settings is not None:
        yield "defaultConfig.tracing.tlsSettings"


@dataclass(frozen=True, slots=True)
class IstioConfig:
    """The valid resources by kind, oldest first, so that conflicts end the same way everywhere."""

    gateways: tuple[Resource[Gateway], ...] = ()
    virtual_services: tuple[Resource[VirtualService], ...] = ()
    destination_rules: tuple[Resource[DestinationRule], ...] = ()
    service_entries: tuple[Resource[ServiceEntry], ...] = ()
    workload_entries: tuple[Resource[WorkloadEntry], ...] = ()
    sidecars: tuple[Resource[Sidecar], ...] = ()
    envoy_filters: tuple[Resource[EnvoyFilter], ...] = ()
    peer_authentications: tuple[Resource[PeerAuthentication], ...] = ()
    authorization_policies: tuple[Resource[AuthorizationPolicy], ...] = ()
    request_authentications: tuple[Resource[RequestAuthentication], ...] = ()
    rate_limits: tuple[Resource[RateLimit], ...] = ()
    rate_limit_configs: tuple[Resource[RateLimitConfig], ...] = ()
    mesh_configs: tuple[Resource[MeshConfig], ...] = ()
    telemetries: tuple[Resource[Telemetry], ...] = ()
    wasm_plugins: tuple[Resource[WasmPlugin], ...] = ()
    proxy_configs: tuple[Resource[ProxyConfig], ...] = ()
    others: tuple[Resource[Any], ...] = ()


_FIELDS = {
    "Gateway": "gateways",
    "VirtualService": "virtual_services",
    "DestinationRule": "destination_rules",
    "ServiceEntry": "service_entries",
    "WorkloadEntry": "workload_entries",
    "Sidecar": "sidecars",
    "EnvoyFilter": "envoy_filters",
    "PeerAuthentication": "peer_authentications",
    "AuthorizationPolicy": "authorization_policies",
    "RequestAuthentication": "request_authentications",
    "RateLimit": "rate_limits",
    "RateLimitConfig": "rate_limit_configs",
    "MeshConfig": "mesh_configs",
    "Telemetry": "telemetries",
    "WasmPlugin": "wasm_plugins",
    "ProxyConfig": "proxy_configs",
}


def istio_config(resources: Iterable[Resource[Any]]) -> IstioConfig:
    """The resources sorted by kind; where several have one name, the last given counts."""
    by_name = {(r.kind, r.namespace, r.name): r for r in resources}
    # Oldest first, then by name: the same order on every replica and after every restart.
    ordered = sorted(
        by_name.values(), key=lambda r: (r.created or "9", r.name, r.namespace, r.kind)
    )
    groups: dict[str, list[Resource[Any]]] = {}
    for resource in ordered:
        groups.setdefault(_FIELDS.get(resource.kind, "others"), []).append(resource)
    return IstioConfig(**{name: tuple(group) for name, group in groups.items()})
