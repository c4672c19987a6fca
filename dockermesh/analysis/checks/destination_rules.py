"""DestinationRules: hosts, subsets, and TLS without verification.

Source of the rules: `pkg/config/analysis/analyzers/destinationrule` of Istio.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    DUPLICATE_SUBSET,
    NO_CA,
    NO_CA_FOR_PORT,
    SUBSET_SELECTS_NOTHING,
    UNKNOWN_RULE_HOST,
)
from dockermesh.analysis.objects import AnalyzedObject, selects
from dockermesh.analysis.services import AnalyzedService
from dockermesh.config.api.destination_rule import ClientTlsMode
from dockermesh.config.findings import Finding

# ISTIO_MUTUAL verifies by the mesh's own roots, and DISABLE verifies nothing.
_VERIFYING = (ClientTlsMode.SIMPLE, ClientTlsMode.MUTUAL)


def unverified_servers(context: Context) -> Iterator[Finding]:
    """SIMPLE and MUTUAL need caCertificates, or a credential, which only rules with a workload
    selector can use.
    """
    for item in context.istio("DestinationRule"):
        spec = item.spec
        policy = spec.traffic_policy
        if policy is None:
            continue

        has_selector = spec.workload_selector is not None

        if _is_unverified(policy.tls, has_selector):
            path = ("spec", "trafficPolicy", "tls")
            yield found(
                item,
                NO_CA,
                item.full_name,
                item.namespace,
                policy.tls.mode,
                spec.host,
                at=path,
            )

        for index, own in enumerate(policy.port_level_settings):
            if _is_unverified(own.tls, has_selector):
                place = ("spec", "trafficPolicy", "portLevelSettings", index, "tls")
                number = own.port.number if own.port is not None else 0
                mode = own.tls.mode
                yield found(
                    item,
                    NO_CA_FOR_PORT,
                    item.full_name,
                    item.namespace,
                    mode,
                    spec.host,
                    number,
                    at=place,
                )


def _is_unverified(tls: Any, has_selector: bool) -> bool:
    if tls is None or tls.mode not in _VERIFYING or tls.ca_certificates:
        return False
    # Sidecars read credentials only for rules that select their workload.
    return not (tls.credential_name and has_selector)


def hosts_and_subsets(context: Context) -> Iterator[Finding]:
    """The host must be a service, and each subset have workloads."""
    for item in context.istio("DestinationRule"):
        spec = item.spec
        service = context.service(spec.host, item.namespace, spec.export_to)
        if service is None:
            # A wildcard is fine as long as it covers some service.
            if not spec.host.startswith("*") or not _covers_any(context, spec.host):
                yield found(item, UNKNOWN_RULE_HOST, spec.host, at=("spec", "host"))
            continue
        for index, subset in enumerate(spec.subsets):
            if not _selects_any(context, service, dict(subset.labels)):
                path = ("spec", "subsets", index)
                yield found(item, SUBSET_SELECTS_NOTHING, subset.name, at=path)


def _covers_any(context: Context, pattern: str) -> bool:
    from dockermesh.config.hosts import matches

    return any(
        matches(pattern, host) for service in context.services for host in service.hosts
    )


def _selects_any(
    context: Context, service: AnalyzedService, labels: dict[str, str]
) -> bool:
    # The registry knows the endpoints themselves; else it is a matter of selectors.
    if service.endpoints is not None:
        return any(selects(labels, endpoint) for endpoint in service.endpoints)
    wanted = (
        {**(service.selector or {}), **labels}
        if service.item and service.item.spec is not None
        else labels
    )
    return bool(context.workloads_matching(wanted))


def duplicate_subsets(context: Context) -> Iterator[Finding]:
    """A subset that two DestinationRules of a namespace define."""
    first: dict[tuple[str, str, str], AnalyzedObject] = {}
    for item in context.istio("DestinationRule"):
        host = context.canonical(item.spec.host, item.namespace)
        for index, subset in enumerate(item.spec.subsets):
            owner = first.setdefault((item.namespace, host, subset.name), item)
            if owner is not item:
                path = ("spec", "subsets", index)
                yield found(
                    item,
                    DUPLICATE_SUBSET,
                    subset.name,
                    item.spec.host,
                    owner.full_name,
                    at=path,
                )
