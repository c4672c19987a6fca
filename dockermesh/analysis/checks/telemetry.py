"""Telemetry providers, mesh networks, status conditions and deprecated things.

Source of the rules: `pkg/config/analysis/analyzers/{telemetry,multicluster,conditions,deprecation}`
of Istio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    DEPRECATED,
    NEGATIVE_CONDITION,
    TELEMETRY_PROVIDER,
    UNKNOWN_PROVIDER,
    UNKNOWN_REGISTRY,
)
from dockermesh.analysis.objects import AnalyzedObject, dig, mappings
from dockermesh.config.findings import Finding

_REGISTRIES = frozenset({"Mock", "Kubernetes", "External"})
_REMOTE_SECRET = "istio/multiCluster"
_NEGATIVE = {
    "Service": {"istio.io/WaypointBound"},
    "ServiceEntry": {"istio.io/WaypointBound"},
    "AuthorizationPolicy": {
        "ZtunnelAccepted",
        "istio.io/ZtunnelAccepted",
        "WaypointAccepted",
    },
    "Gateway": {"Accepted", "Programmed", "ResolvedRefs"},
    "HTTPRoute": {"Accepted", "Programmed", "ResolvedRefs"},
    "GRPCRoute": {"Accepted", "Programmed", "ResolvedRefs"},
}
_REMOVED = frozenset(
    {"ClusterRbacConfig", "RbacConfig", "ServiceRole", "ServiceRoleBinding"}
)


def providers(context: Context) -> Iterator[Finding]:
    """Access logging needs a provider: the resource's own, or a default one."""
    # Then a Telemetry need not name one.
    if dig(context.mesh_config, "defaultProviders", "accessLogging"):
        return

    for item in context.istio("Telemetry"):
        for index, logging in enumerate(item.spec.access_logging):
            if not logging.disabled and not logging.providers:
                yield found(
                    item,
                    TELEMETRY_PROVIDER,
                    item.name,
                    item.namespace,
                    at=("spec", "accessLogging", index),
                )


def unknown_providers(context: Context) -> Iterator[Finding]:
    """Access logs go to providers that the MeshConfig has; `envoy` is always there."""
    listed = mappings(context.mesh_config.get("extensionProviders"))
    known = {str(provider.get("name")).casefold() for provider in listed} | {"envoy"}
    for item in context.istio("Telemetry"):
        for index, logging in enumerate(item.spec.access_logging):
            for position, provider in enumerate(logging.providers):
                if provider.name.casefold() not in known:
                    path = ("spec", "accessLogging", index, "providers", position)
                    yield found(item, UNKNOWN_PROVIDER, provider.name, at=path)


def lightstep(context: Context) -> Iterator[Finding]:
    """The provider lightstep gave way to OpenTelemetry."""
    listed = mappings(context.mesh_config.get("extensionProviders"))
    # A provider is named in MeshConfig, and used by its name.
    names = {provider.get("name") for provider in listed if "lightstep" in provider}
    for item in context.istio("Telemetry") if names else ():
        for index, tracing in enumerate(item.spec.tracing):
            for provider in tracing.providers:
                if provider.name in names:
                    text = f"the Lightstep provider {provider.name}; use OpenTelemetry"
                    yield found(item, DEPRECATED, text, at=("spec", "tracing", index))


def deprecations(context: Context) -> Iterator[Finding]:
    """Fields that are still read but have no effect, and definitions of kinds that are gone."""
    for item in context.istio("Sidecar"):
        policy = item.spec.outbound_traffic_policy
        # Istio reads it and does nothing.
        if policy is not None and policy.egress_proxy is not None:
            path = ("spec", "outboundTrafficPolicy", "egressProxy")
            yield found(
                item,
                DEPRECATED,
                "outboundTrafficPolicy.egressProxy is ignored",
                at=path,
            )
    for item in context.kubernetes("CustomResourceDefinition"):
        kind = dig(item.body, "spec", "names", "kind")
        if dig(item.body, "spec", "group") == "rbac.istio.io" and kind in _REMOVED:
            yield found(
                item,
                DEPRECATED,
                f"custom resource type rbac.istio.io {kind} is removed",
            )


def networks(context: Context) -> Iterator[Finding]:
    """Endpoints of mesh networks come from registries that exist."""
    known = _REGISTRIES | set(_remote_clusters(context))
    for item in context.kubernetes("MeshNetworks"):
        listed = dig(item.body, "networks")
        for name, network in listed.items() if isinstance(listed, dict) else ():
            for index, endpoint in enumerate(mappings(dig(network, "endpoints"))):
                registry = endpoint.get("fromRegistry")
                if isinstance(registry, str) and registry not in known:
                    path = ("networks", name, "endpoints", index)
                    yield found(item, UNKNOWN_REGISTRY, registry, name, at=path)


def _remote_clusters(context: Context) -> Iterator[str]:
    """Other clusters by name: a remote secret has a kubeconfig for each under its name."""
    for secret in context.kubernetes("Secret"):
        if secret.labels.get(_REMOTE_SECRET) == "true":
            for part in ("data", "stringData"):
                yield from map(str, dig(secret.body, part) or ())


def conditions(context: Context) -> Iterator[Finding]:
    """Conditions in which whoever serves a resource says that it does not."""
    for item in _served(context):
        for condition in _conditions(item):
            kind, status, reason, message = (
                str(condition.get(key) or "")
                for key in ("type", "status", "reason", "message")
            )
            # What is taken in part is told, whatever the status says.
            is_partial = kind == "WaypointAccepted" and reason == "PartiallyInvalid"
            if (kind in _NEGATIVE[item.kind] and status == "False") or is_partial:
                yield found(
                    item, NEGATIVE_CONDITION, kind, reason, message, at=("status",)
                )


def _served(context: Context) -> Iterator[AnalyzedObject]:
    yield from context.kubernetes("Service", "Gateway", "HTTPRoute", "GRPCRoute")
    for kind in ("ServiceEntry", "AuthorizationPolicy"):
        yield from context.istio(kind)


def _conditions(item: AnalyzedObject) -> Iterator[Any]:
    yield from mappings(dig(item.body, "status", "conditions"))
    for parent in mappings(dig(item.body, "status", "parents")):
        yield from mappings(parent.get("conditions"))
