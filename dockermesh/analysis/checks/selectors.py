"""Sidecars and Telemetries: which workloads they select, and that no two select the same.

Source of the rules: `pkg/config/analysis/analyzers/{sidecar,telemetry}` of Istio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    INEFFECTIVE_POLICY,
    NOT_FOUND,
    SIDECAR_CONFLICT,
    SIDECAR_DEFAULTS,
    TELEMETRY_CONFLICT,
    TELEMETRY_DEFAULTS,
    Message,
)
from dockermesh.analysis.objects import AnalyzedObject, selector_text
from dockermesh.analysis.workloads import INJECTION, AnalyzedWorkload
from dockermesh.config.findings import Finding

_Selector = Callable[[AnalyzedObject], Mapping[str, str]]
_MODE = "istio.io/dataplane-mode"
_REVISION = "istio.io/rev"


def sidecars(context: Context) -> Iterator[Finding]:
    """Sidecars select some workload each, no workload twice, and one per namespace has no
    selector.
    """
    listed = list(context.istio("Sidecar"))
    path = ("spec", "workloadSelector", "labels")
    selected, missing = _selected(context, listed, _sidecar_selector, path)
    yield from missing
    ineffective: dict[str, tuple[AnalyzedObject, str]] = {}
    for workload, owners in selected:
        # Its traffic goes through the node, where no Sidecar is read.
        if workload.is_ambient:
            ineffective.update(
                {
                    o.full_name: (o, "the workload has no sidecar (ambient mode)")
                    for o in owners
                }
            )
        elif len(owners) > 1:
            yield from _conflict(owners, workload, SIDECAR_CONFLICT)

    for namespace, owners in _without_selector(listed, _sidecar_selector).items():
        if _is_ambient(context, namespace):
            ineffective.update(
                {
                    o.full_name: (o, "the namespace has no sidecars (ambient mode)")
                    for o in owners
                }
            )
        elif len(owners) > 1:
            yield from _defaults(owners, namespace, SIDECAR_DEFAULTS)

    for item, reason in ineffective.values():
        yield found(item, INEFFECTIVE_POLICY, reason)


def telemetries(context: Context) -> Iterator[Finding]:
    """As for Sidecars; a Telemetry with a targetRef has its own place."""
    listed = [
        t
        for t in context.istio("Telemetry")
        if t.spec.target_ref is None and not t.spec.target_refs
    ]
    selected, missing = _selected(
        context, listed, _telemetry_selector, ("spec", "selector", "matchLabels")
    )
    yield from missing
    for workload, owners in selected:
        if len(owners) > 1:
            yield from _conflict(owners, workload, TELEMETRY_CONFLICT)

    for namespace, owners in _without_selector(listed, _telemetry_selector).items():
        if len(owners) > 1:
            yield from _defaults(owners, namespace, TELEMETRY_DEFAULTS)


def _sidecar_selector(item: AnalyzedObject) -> Mapping[str, str]:
    selector = item.spec.workload_selector
    return selector.labels if selector is not None else {}


def _telemetry_selector(item: AnalyzedObject) -> Mapping[str, str]:
    selector = item.spec.selector
    return selector.match_labels if selector is not None else {}


def _selected(
    context: Context,
    listed: list[AnalyzedObject],
    selector: _Selector,
    path: tuple[str | int, ...],
) -> tuple[list[tuple[AnalyzedWorkload, list[AnalyzedObject]]], list[Finding]]:
    """Each selected workload with those that select it, and findings about those that select
    none.
    """
    owners: dict[str, tuple[AnalyzedWorkload, list[AnalyzedObject]]] = {}
    missing = []
    for item in listed:
        wanted = selector(item)
        # Without a selector it is the default of its namespace.
        if not wanted:
            continue

        workloads = context.workloads_matching(wanted, item.namespace)
        for workload in workloads:
            owners.setdefault(workload.full_name, (workload, []))[1].append(item)
        if not workloads:
            missing.append(
                found(item, NOT_FOUND, "selector", selector_text(wanted), at=path)
            )

    return list(owners.values()), missing


def _conflict(
    owners: list[AnalyzedObject], workload: AnalyzedWorkload, message: Message
) -> Iterator[Finding]:
    names = [item.name for item in owners]
    for item in owners:
        yield found(item, message, names, workload.namespace, workload.name)


def _without_selector(
    listed: list[AnalyzedObject], selector: _Selector
) -> dict[str, list[AnalyzedObject]]:
    by_namespace: dict[str, list[AnalyzedObject]] = defaultdict(list)
    for item in listed:
        if not selector(item):
            by_namespace[item.namespace].append(item)
    return by_namespace


def _defaults(
    owners: list[AnalyzedObject], namespace: str, message: Message
) -> Iterator[Finding]:
    names = [item.name for item in owners]
    for item in owners:
        yield found(item, message, names, namespace)


def _is_ambient(context: Context, namespace: str) -> bool:
    known = context.namespaces.get(namespace)
    # Sidecars win over ambient mode where a namespace asks for both.
    if (
        known is None
        or known.labels.get(INJECTION) == "enabled"
        or known.labels.get(_REVISION)
    ):
        return False
    return known.labels.get(_MODE) == "ambient"
