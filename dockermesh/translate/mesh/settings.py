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
from dockermesh.config.api.gateway import Gateway, TlsProtocol
from dockermesh.config.api.mesh_config import (
    DefaultProxyConfig,
    GatewayTopology,
    MeshConfig,
    NormalizationType,
    OutboundPolicyMode,
    Provider,
)
from dockermesh.config.api.peer_authentication import PeerAuthentication
from dockermesh.config.api.request_authentication import RequestAuthentication
from dockermesh.config.api.service_entry import ServiceEntry
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.virtual_service import HTTPRetry, VirtualService
from dockermesh.config.api.workload import WorkloadEntry
from dockermesh.config.fields import camel_case, json_name
from dockermesh.config.resource import Resource
from dockermesh.model.contract import (
    DEFAULT_SERVICE_DOMAIN,
    DEFAULT_TRUST_DOMAIN,
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
    proxy takes it and no rule says otherwise. Times are in seconds.
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
    h2_upgrade: bool = False
    locality: LocalityLoadBalancerSetting | None = None
    verify_certificates: bool = True
    normalization: NormalizationType = NormalizationType.BASE
    service_export_to: tuple[str, ...] = ()
    virtual_service_export_to: tuple[str, ...] = ()
    destination_rule_export_to: tuple[str, ...] = ()
    trust_domain_aliases: tuple[str, ...] = ()
    extension_providers: tuple[Provider, ...] = ()
    gateway_topology: GatewayTopology | None = None


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
    }
    changes = {name: value for name, value in changes.items() if value}
    # Of these `false` and `0s` say something, too.
    changes |= _given(
        connect_timeout=_seconds(config.connect_timeout),
        detection_timeout=_seconds(config.protocol_detection_timeout),
        verify_certificates=config.verify_certificate_at_client,
        auto_mtls=config.enable_auto_mtls,
    )

    if config.outbound_traffic_policy is not None:
        changes["allow_any"] = (
            config.outbound_traffic_policy.mode is not OutboundPolicyMode.REGISTRY_ONLY
        )

    if (
        config.default_config is not None
        and config.default_config.gateway_topology is not None
    ):
        changes["gateway_topology"] = config.default_config.gateway_topology
    if config.h2_upgrade_policy is not H2UpgradePolicy.DEFAULT:
        changes["h2_upgrade"] = config.h2_upgrade_policy is H2UpgradePolicy.UPGRADE
    if config.mesh_mtls is not None:
        changes["minimum_tls"] = config.mesh_mtls.min_protocol_version

    if config.path_normalization is not None:
        # BASE is Istio's default: without it `/x/../admin` slips past a policy. `//admin` still
        # does, unless slashes are merged.
        wanted = config.path_normalization.normalization
        changes["normalization"] = (
            NormalizationType.BASE if wanted is NormalizationType.DEFAULT else wanted
        )

    return replace(settings, **changes)


def _given(**values: float | bool | None) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _seconds(duration: timedelta | None) -> float | None:
    return duration.total_seconds() if duration is not None else None


_WITHOUT_EFFECT = (
    "access_log_file",
    "access_log_format",
    "access_log_encoding",
    "enable_tracing",
    "inbound_traffic_policy",
    "default_providers",
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
            if is_set and field.name != "gateway_topology":
                yield f"defaultConfig.{json_name(field)}"


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
    mesh_configs: tuple[Resource[MeshConfig], ...] = ()
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
    "MeshConfig": "mesh_configs",
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
