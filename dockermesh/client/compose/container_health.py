"""The health of workloads that serve no port: that of their containers, as `docker compose ps` has
it.

Invariant: what the mesh says of a workload's endpoints is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.model.contract import LABEL_ROLE

NOTHING_SERVED = "-"
_CHECKED = re.compile(r"\((?:health: )?(starting|healthy|unhealthy)\)$")
_ENDED = re.compile(r"Exited \(\d+\)")


def with_container_health(
    engine: LocalEngine, workloads: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The workloads; those that serve nothing have the health of their app's container, and
    gateways that of their pod, as far as these are on this engine.
    """
    listed = [dict(workload) for workload in workloads]
    silent = [w for w in listed if w["health"] == NOTHING_SERVED]
    if not silent:
        return listed

    containers = {c["Id"]: c for c in engine.containers([LABEL_ROLE])}
    for workload in silent:
        found = containers.get(workload["app_container"] or workload["pod"])
        if found is not None:
            workload["health"] = _health(found)
    return listed


def _health(container: Mapping[str, Any]) -> str:
    """What the engine's list says: the check's verdict, how it ended, or that it runs."""
    status = str(container.get("Status") or "")
    if checked := _CHECKED.search(status):
        return checked[1]
    if ended := _ENDED.match(status):
        return ended[0].lower()
    return str(container.get("State") or NOTHING_SERVED)
