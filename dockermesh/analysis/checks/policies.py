"""Security policies, and whatever else selects workloads by labels.

Source of the rules: `pkg/config/analysis/analyzers/{authz,k8sgateway}` of Istio.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import INEFFECTIVE_SELECTOR, NO_WORKLOADS, NOT_FOUND
from dockermesh.analysis.objects import AnalyzedObject, selector_text, selects
from dockermesh.analysis.workloads import AnalyzedWorkload
from dockermesh.config.fields import camel_case
from dockermesh.config.findings import Finding, Path

_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
_POLICIES = ("AuthorizationPolicy", "RequestAuthentication", "Telemetry", "WasmPlugin")


def authorization_workloads(context: Context) -> Iterator[Finding]:
    """An AuthorizationPolicy must apply to some workload of the mesh."""
    for item in context.istio("AuthorizationPolicy"):
        spec = item.spec
        # Attached to a resource, not to workloads.
        if spec.target_ref is not None or spec.target_refs:
            continue
        is_mesh_wide = item.namespace == context.root_namespace
        # A policy for the whole mesh is right in an empty mesh, too.
        if is_mesh_wide and spec.selector is None:
            continue

        wanted = spec.selector.match_labels if spec.selector is not None else {}
        candidates = context.workloads_matching(
            wanted, "" if is_mesh_wide else item.namespace
        )
        if not any(workload.in_mesh for workload in candidates):
            yield found(
                item, NO_WORKLOADS, selector_text(wanted), at=("spec", "selector")
            )


def authorization_namespaces(context: Context) -> Iterator[Finding]:
    """Namespaces of sources must exist: as an object, or because something is in them."""
    known = {
        *context.namespaces,
        *(workload.namespace for workload in context.workloads),
        *(service.namespace for service in context.services),
    }
    for item in context.istio("AuthorizationPolicy"):
        for path, wanted in _source_namespaces(item):
            if not any(_namespace_matches(namespace, wanted) for namespace in known):
                yield found(item, NOT_FOUND, "namespace", wanted, at=path)


def _source_namespaces(item: AnalyzedObject) -> Iterator[tuple[Path, str]]:
    """The namespaces that rules name, each with its place."""
    for index, rule in enumerate(item.spec.rules):
        for number, origin in enumerate(rule.sources):
            for field in (
                ("namespaces", "not_namespaces") if origin.source is not None else ()
            ):
                for place, wanted in enumerate(getattr(origin.source, field)):
                    where = ("spec", "rules", index, "from", number, "source")
                    yield (*where, camel_case(field), place), wanted


def _namespace_matches(namespace: str, wanted: str) -> bool:
    if wanted.startswith("*"):
        return namespace.endswith(wanted[1:])
    if wanted.endswith("*"):
        return namespace.startswith(wanted[:-1])
    return namespace.lower() == wanted.lower()


def gateway_selectors(context: Context) -> Iterator[Finding]:
    """Policies reach the workloads of Kubernetes Gateways by targetRefs only."""
    gateways = [
        workload for workload in context.workloads if _GATEWAY_NAME in workload.labels
    ]
    for kind in _POLICIES if gateways else ():
        for item in context.istio(kind):
            for workload in _selected(item, gateways):
                name = workload.labels[_GATEWAY_NAME]
                yield found(item, INEFFECTIVE_SELECTOR, name, at=("spec", "selector"))


def _selected(
    item: AnalyzedObject, gateways: Iterable[AnalyzedWorkload]
) -> Iterator[AnalyzedWorkload]:
    """The gateways that the policy selects by labels, if it has no target."""
    selector = item.spec.selector
    if selector is None or _has_target(item):
        return
    for workload in gateways:
        if workload.namespace == item.namespace and selects(
            selector.match_labels, workload.labels
        ):
            yield workload


def _has_target(item: AnalyzedObject) -> bool:
    return getattr(item.spec, "target_ref", None) is not None or bool(
        getattr(item.spec, "target_refs", ())
    )
