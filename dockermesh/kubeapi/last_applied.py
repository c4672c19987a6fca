"""kubectl's client-side apply beside its server-side one: an object may go from one to the other
and back.

Client-side apply keeps what it applied in an annotation. Invariant: taking over what that
annotation says is no conflict, and the annotation says what was applied last by either way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.kubeapi.managed import Conflict, fields_of, get

ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl"


def are_taken_over(
    live: Mapping[str, Any], conflicts: Iterable[Conflict], manager: str
) -> bool:
    """Whether all conflicts are about what kubectl itself applied on the client's side."""
    # Other tools have no such annotation.
    if manager != MANAGER:
        return False
    last = _last_applied(live)
    own = {path for path in fields_of(last) if get(last, path) == get(live, path)}
    return all(conflict.path in own for conflict in conflicts)


def keep_current(
    merged: dict[str, Any], applied: Mapping[str, Any], manager: str
) -> None:
    """Write into the annotation, if there is one, what was applied."""
    annotations = merged["metadata"].get("annotations")
    if (
        manager == MANAGER
        and isinstance(annotations, dict)
        and ANNOTATION in annotations
    ):
        # In the form that kubectl writes itself, with the line end.
        text = json.dumps(applied, separators=(",", ":"), sort_keys=True) + "\n"
        merged["metadata"]["annotations"] = {**annotations, ANNOTATION: text}


def _last_applied(live: Mapping[str, Any]) -> Mapping[str, Any]:
    annotations = live["metadata"].get("annotations")
    text = annotations.get(ANNOTATION) if isinstance(annotations, Mapping) else None
    try:
        last = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return last if isinstance(last, Mapping) else {}
