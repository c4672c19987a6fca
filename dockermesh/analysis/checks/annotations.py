"""Annotations: unknown, misplaced, deprecated, alpha, and with values that cannot be read.

The table holds facts of istio/api's `annotation/annotations.yaml`; the values' rules are those of
`pkg/kube/inject/validate.go`. Source of the checks:
`pkg/config/analysis/analyzers/{annotations,maturity}` of Istio.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    ALPHA_ANNOTATION,
    DEPRECATED_ANNOTATION,
    INVALID_ANNOTATION,
    MISPLACED_ANNOTATION,
    UNKNOWN_ANNOTATION,
)
from dockermesh.analysis.objects import AnalyzedObject, mappings
from dockermesh.analysis.workloads import INJECT, pod_template
from dockermesh.config.findings import Finding

_CHECKED = ("Namespace", "Service", "Pod", "Deployment")
_INGRESS_CLASS = "kubernetes.io/ingress.class"
_STATUS = "sidecar.istio.io/status"
"""Written by injection itself."""


@dataclass(frozen=True, slots=True)
class _Known:
    """An annotation: the kinds it belongs to (`Any`: all), and its state."""

    kinds: tuple[str, ...] = ("Pod",)
    is_alpha: bool = True
    is_deprecated: bool = False


_POD, _ANY = _Known(), _Known(("Any",))
_GONE = _Known(is_deprecated=True)
_SERVICE, _GATEWAY, _ENTRY = (
    _Known(("Service",)),
    _Known(("Gateway",)),
    _Known(("WorkloadEntry",)),
)
_KNOWN: dict[str, _Known] = {
    "alpha.istio.io/canonical-serviceaccounts": _Known(
        ("Service",), is_deprecated=True
    ),
    "alpha.istio.io/kubernetes-serviceaccounts": _Known(
        ("Service",), is_deprecated=True
    ),
    "ambient.istio.io/bypass-inbound-capture": _POD,
    "ambient.istio.io/dns-capture": _POD,
    "ambient.istio.io/redirection": _Known(is_alpha=False),
    "ambient.istio.io/waypoint-inbound-binding": _Known(("GatewayClass", "Gateway")),
    "galley.istio.io/analyze-suppress": _ANY,
    "gateway.istio.io/controller-version": _ANY,
    "gateway.istio.io/name-override": _GATEWAY,
    "gateway.istio.io/service-account": _GATEWAY,
    "gateway.istio.io/tls-terminate-mode": _GATEWAY,
    "inject.istio.io/templates": _POD,
    "install.operator.istio.io/chart-owner": _ANY,
    "install.operator.istio.io/owner-generation": _ANY,
    "install.operator.istio.io/version": _ANY,
    "istio.io/autoRegistrationGroup": _ENTRY,
    "istio.io/connectedAt": _ENTRY,
    "istio.io/disconnectedAt": _ENTRY,
    "istio.io/dry-run": _Known(("AuthorizationPolicy",)),
    "istio.io/for-service-account": _Known(("Gateway", "Service")),
    "istio.io/reroute-virtual-interfaces": _POD,
    "istio.io/rev": _POD,
    "istio.io/workloadController": _ENTRY,
    _INGRESS_CLASS: _Known(("Ingress",), is_alpha=False),
    "networking.istio.io/exportTo": _SERVICE,
    "networking.istio.io/service-type": _GATEWAY,
    "networking.istio.io/traffic-distribution": _Known(("Service", "ServiceEntry")),
    "prometheus.istio.io/merge-metrics": _POD,
    "proxy.istio.io/config": _Known(is_alpha=False),
    "proxy.istio.io/overrides": _POD,
    "readiness.status.sidecar.istio.io/applicationPorts": _POD,
    "readiness.status.sidecar.istio.io/failureThreshold": _POD,
    "readiness.status.sidecar.istio.io/initialDelaySeconds": _POD,
    "readiness.status.sidecar.istio.io/periodSeconds": _POD,
    "sidecar.istio.io/agentLogLevel": _POD,
    "sidecar.istio.io/bootstrapOverride": _POD,
    "sidecar.istio.io/componentLogLevel": _POD,
    "sidecar.istio.io/controlPlaneAuthPolicy": _GONE,
    "sidecar.istio.io/discoveryAddress": _GONE,
    "sidecar.istio.io/enableCoreDump": _POD,
    "sidecar.istio.io/extraStatTags": _GONE,
    INJECT: _Known(is_alpha=False, is_deprecated=True),
    "sidecar.istio.io/interceptionMode": _POD,
    "sidecar.istio.io/logLevel": _POD,
    "sidecar.istio.io/nativeSidecar": _POD,
    "sidecar.istio.io/proxyCPU": _POD,
    "sidecar.istio.io/proxyCPULimit": _POD,
    "sidecar.istio.io/proxyImage": _POD,
    "sidecar.istio.io/proxyImageType": _POD,
    "sidecar.istio.io/proxyMemory": _POD,
    "sidecar.istio.io/proxyMemoryLimit": _POD,
    "sidecar.istio.io/rewriteAppHTTPProbers": _POD,
    "sidecar.istio.io/statsCompression": _POD,
    "sidecar.istio.io/statsHistogramBuckets": _POD,
    "sidecar.istio.io/statsInclusionPrefixes": _GONE,
    "sidecar.istio.io/statsInclusionRegexps": _GONE,
    "sidecar.istio.io/statsInclusionSuffixes": _GONE,
    "sidecar.istio.io/status": _POD,
    "sidecar.istio.io/userVolume": _POD,
    "sidecar.istio.io/userVolumeMount": _POD,
    "status.sidecar.istio.io/port": _POD,
    "topology.istio.io/controlPlaneClusters": _Known(("Namespace",)),
    "traffic.istio.io/nodeSelector": _Known(("Service",), is_alpha=False),
    "traffic.sidecar.istio.io/excludeInboundPorts": _POD,
    "traffic.sidecar.istio.io/excludeInterfaces": _POD,
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": _POD,
    "traffic.sidecar.istio.io/excludeOutboundPorts": _POD,
    "traffic.sidecar.istio.io/includeInboundPorts": _POD,
    "traffic.sidecar.istio.io/includeOutboundIPRanges": _POD,
    "traffic.sidecar.istio.io/includeOutboundPorts": _POD,
    "traffic.sidecar.istio.io/kubevirtInterfaces": _POD,
}
_SET_BY_ISTIO = frozenset(
    {
        "sidecar.istio.io/interceptionMode",
        "traffic.sidecar.istio.io/includeInboundPorts",
        "traffic.sidecar.istio.io/excludeInboundPorts",
        "traffic.sidecar.istio.io/includeOutboundIPRanges",
    }
)
"""Set on every pod where Istio's CNI plugin captures traffic: no choice of the user."""


def placement(context: Context) -> Iterator[Finding]:
    """Annotations of Istio must exist, belong to their object, and have a value that can be
    read.
    """
    for item in context.kubernetes(*_CHECKED):
        for name, value in item.annotations.items():
            if _is_istios(name):
                yield from _check(item, name, value)


def _check(item: AnalyzedObject, name: str, value: str) -> Iterator[Finding]:
    path = ("metadata", "annotations", name)
    known = _KNOWN.get(name)
    if known is None:
        yield found(item, UNKNOWN_ANNOTATION, name, at=path)
        return

    # With the label beside it, the annotation decides nothing.
    if known.is_deprecated and not (name == INJECT and INJECT in item.labels):
        instead = f' in favor of the label "{INJECT}"' if name == INJECT else ""
        yield found(item, DEPRECATED_ANNOTATION, name, instead, at=path)
    # Its value is nothing that we know rules for.
    if "Any" in known.kinds:
        return
    if item.kind not in known.kinds:
        yield found(item, MISPLACED_ANNOTATION, name, ", ".join(known.kinds), at=path)
        return

    problem = _VALUES[name](value) if name in _VALUES else ""
    if problem:
        yield found(item, INVALID_ANNOTATION, name, problem, at=path)


def alpha(context: Context) -> Iterator[Finding]:
    """Annotations of features that may change."""
    for item in context.kubernetes(*_CHECKED):
        passed_over = {_STATUS} | (
            _SET_BY_ISTIO if _is_captured_by_plugin(item) else set()
        )
        for name in item.annotations:
            known = _KNOWN.get(name)
            if known is not None and known.is_alpha and name not in passed_over:
                yield found(
                    item, ALPHA_ANNOTATION, name, at=("metadata", "annotations", name)
                )


def _is_captured_by_plugin(item: AnalyzedObject) -> bool:
    """Whether the pod has no container that installs capture rules, so that the CNI plugin does."""
    if item.kind != "Pod":
        return False
    spec = pod_template(item).get("spec")
    listed = mappings(spec.get("initContainers")) if isinstance(spec, dict) else ()
    return not any(container.get("name") == "istio-init" for container in listed)


def _is_istios(name: str) -> bool:
    # Others have annotations, too, about which nothing is known here.
    return name == _INGRESS_CLASS or name.partition("/")[0].endswith("istio.io")


# values
# --------------------------------------------------------------------------------------------------
def _unsigned(value: str) -> str:
    return (
        ""
        if re.fullmatch(r"\d{1,10}", value) and int(value) < 2**32
        else f"{value!r} is no number"
    )


def _boolean(value: str) -> str:
    return (
        ""
        if value.lower() in ("1", "t", "true", "0", "f", "false")
        else f"{value!r} is neither true nor false"
    )


def _mode(value: str) -> str:
    return (
        ""
        if value in ("REDIRECT", "TPROXY", "NONE")
        else f"{value!r} is not REDIRECT, TPROXY or NONE"
    )


def _port(value: str) -> str:
    value = value.strip()
    return (
        ""
        if re.fullmatch(r"\d{1,5}", value) and int(value) < 65536
        else f"{value!r} is no port"
    )


def _ports(value: str) -> str:
    return (
        next((problem for part in value.split(",") if (problem := _port(part))), "")
        if value.strip()
        else ""
    )


def _ranges(value: str) -> str:
    for part in value.split(",") if value else ():
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            return f"{part!r} is no range of addresses"
        # Python takes a bare address for a network, Istio does not.
        if "/" not in part:
            return f"{part!r} is no range of addresses"
    return ""


def _or_all(check: Callable[[str], str]) -> Callable[[str], str]:
    # `*` is all ports, or all addresses.
    return lambda value: "" if value == "*" else check(value)


_VALUES: dict[str, Callable[[str], str]] = {
    "sidecar.istio.io/interceptionMode": _mode,
    "status.sidecar.istio.io/port": _port,
    "readiness.status.sidecar.istio.io/initialDelaySeconds": _unsigned,
    "readiness.status.sidecar.istio.io/periodSeconds": _unsigned,
    "readiness.status.sidecar.istio.io/failureThreshold": _unsigned,
    "traffic.sidecar.istio.io/includeOutboundIPRanges": _or_all(_ranges),
    "traffic.sidecar.istio.io/excludeOutboundIPRanges": _ranges,
    "traffic.sidecar.istio.io/includeInboundPorts": _or_all(_ports),
    "traffic.sidecar.istio.io/excludeInboundPorts": _ports,
    "traffic.sidecar.istio.io/excludeOutboundPorts": _ports,
    "prometheus.istio.io/merge-metrics": _boolean,
}
