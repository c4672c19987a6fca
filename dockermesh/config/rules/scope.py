"""Rules that most kinds share: labels, selectors, target references, export."""

from __future__ import annotations

from collections.abc import Mapping

from dockermesh.config.api.common import (
    LabelSelector,
    PolicyTargetReference,
    WorkloadSelector,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.rules.names import check_workload_label, is_label

_TARGETS = frozenset(
    {
        ("core", "Service"),
        ("networking.istio.io", "ServiceEntry"),
        ("gateway.networking.k8s.io", "Gateway"),
        ("gateway.networking.k8s.io", "GatewayClass"),
    }
)


def report(at: Cursor, wrong: str) -> None:
    """An error if something is wrong."""
    if wrong:
        at.error(wrong)


def check_labels(labels: Mapping[str, str], at: Cursor) -> None:
    """Labels of workloads."""
    for key, value in labels.items():
        report(at / key, check_workload_label(key, value))


def check_workload_selector(selector: WorkloadSelector | None, at: Cursor) -> None:
    """The selector of networking kinds."""
    if selector is not None:
        _check_selected(selector.labels, at / "labels", at)


def check_label_selector(selector: LabelSelector | None, at: Cursor) -> None:
    """The selector of the other kinds."""
    if selector is not None:
        _check_selected(selector.match_labels, at / "matchLabels", at)


def _check_selected(labels: Mapping[str, str], at: Cursor, selector: Cursor) -> None:
    for key, value in labels.items():
        if not key:
            (at / key).error("a selector's key must not be empty")
        # A wildcard would be taken literally, and select nothing.
        if "*" in key or "*" in value:
            (at / key).error(f"a selector has no wildcards: '{key}={value}'")
    if not labels:
        selector.warn(
            "selects by no labels, so it applies to all workloads of the namespace"
        )


def check_targets(
    target: PolicyTargetReference | None,
    targets: tuple[PolicyTargetReference, ...],
    at: Cursor,
) -> None:
    """`targetRef` and `targetRefs`, `at` being the spec."""
    if target is not None:
        _check_target(target, at / "targetRef")
    for index, entry in enumerate(targets):
        _check_target(entry, at / "targetRefs" / index)


def _check_target(target: PolicyTargetReference, at: Cursor) -> None:
    if not target.name:
        (at / "name").error("targetRef name must be set")
    # The API has the field; Istio does not follow it.
    if target.namespace:
        (at / "namespace").error(
            "targetRef namespace must not be set: references across namespaces are not supported"
        )
    if (target.group or "core", target.kind) not in _TARGETS:
        allowed = ", ".join(sorted(kind for _, kind in _TARGETS))
        (at / "kind").error(
            f"targetRef must be one of {allowed}, not {target.group}/{target.kind}"
        )


def check_export(
    export_to: tuple[str, ...], namespace: str, at: Cursor, *, service: bool = False
) -> None:
    """`exportTo`; only services may be exported to nobody (`~`)."""
    seen: set[str] = set()
    for index, entry in enumerate(export_to):
        key = namespace if entry == "." else entry
        if key in seen:
            (at / index).error(f"duplicate entry {entry!r} in exportTo")
        else:
            report(at / index, _check_exported(entry, service=service))
        seen.add(key)

    # `*` is everybody and `~` nobody.
    for only in ("*", "~"):
        if only in seen and len(export_to) > 1:
            at.error(f"{only!r} cannot be combined with other entries in exportTo")


def _check_exported(entry: str, *, service: bool) -> str:
    if entry == "~" and not service:
        return "exportTo ~ (nobody) is only allowed for services"
    if entry not in (".", "*", "~") and not is_label(entry):
        return f"{entry[:80]!r} is not a namespace, '.' or '*'"
    return ""
