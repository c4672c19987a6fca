"""RateLimits that limit nobody, or that count nothing."""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import COUNTS_NOTHING, LIMITS_NOBODY
from dockermesh.analysis.objects import AnalyzedObject, selector_text
from dockermesh.config.findings import Finding, Path

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"


def limits_of_nobody(context: Context) -> Iterator[Finding]:
    """A RateLimit must apply to some workload of the mesh, and each of its targets exist."""
    for item in context.istio("RateLimit"):
        if item.spec.target_refs:
            yield from _targets(context, item)
        elif not _is_for_somebody(context, item):
            selector = item.spec.selector
            wanted = selector.match_labels if selector is not None else {}
            text = f"no workload of the mesh has the labels {selector_text(wanted)}"
            if not wanted:
                text = f"there is no workload of the mesh in namespace {item.namespace}"
            yield found(item, LIMITS_NOBODY, text, at=("spec", "selector"))


def limits_of_nothing(context: Context) -> Iterator[Finding]:
    """The routes and claims that a RateLimit counts by must be known to the mesh."""
    routes = set(_route_names(context))
    reads_tokens = any(True for _ in context.istio("RequestAuthentication"))
    for item in context.istio("RateLimit"):
        for index, limit in enumerate(item.spec.limits):
            place = ("spec", "limits", index)
            wanted = limit.match.routes if limit.match is not None else ()
            for number, name in enumerate(wanted):
                if name not in routes:
                    text = f"no VirtualService has a route named {name}"
                    at: Path = (*place, "match", "routes", number)
                    yield found(item, COUNTS_NOTHING, text, at=at)
            for number, by in enumerate(limit.by):
                if by.claim is not None and not reads_tokens:
                    text = "no RequestAuthentication reads tokens, so none has claims"
                    at = (*place, "by", number, "claim")
                    yield found(item, COUNTS_NOTHING, text, at=at)


def _route_names(context: Context) -> Iterator[str]:
    """The names that routes of VirtualServices have in the proxies."""
    for item in context.istio("VirtualService"):
        for rule in item.spec.http:
            yield rule.name
            yield from (
                ".".join(part for part in (rule.name, match.name) if part)
                for match in rule.match
            )


def _is_for_somebody(context: Context, item: AnalyzedObject) -> bool:
    selector = item.spec.selector
    is_mesh_wide = item.namespace == context.root_namespace
    # One for the whole mesh is right in an empty mesh, too.
    if is_mesh_wide and selector is None:
        return True
    workloads = context.workloads_matching(
        selector.match_labels if selector is not None else {},
        "" if is_mesh_wide else item.namespace,
    )
    return any(workload.in_mesh for workload in workloads)


def _targets(context: Context, item: AnalyzedObject) -> Iterator[Finding]:
    for index, target in enumerate(item.spec.target_refs):
        if target.kind == "Service":
            is_known = context.service(target.name, item.namespace) is not None
        else:
            label = {_GATEWAY_NAME: target.name}
            is_known = bool(context.workloads_matching(label, item.namespace))
        if not is_known:
            text = f"there is no {target.kind} {target.name}"
            yield found(
                item, LIMITS_NOBODY, text, at=("spec", "targetRefs", index, "name")
            )
