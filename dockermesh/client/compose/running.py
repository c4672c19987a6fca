"""What runs before and after `up`, and so what it has changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.model.contract import COMPOSE_PROJECT, MESH_PROJECT, TELEMETRY_PROJECT


def running(engine: LocalEngine, project: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Containers of the project and the mesh by id and start: a restart is a change, too."""
    found = {}
    for name in (project, MESH_PROJECT, TELEMETRY_PROJECT):
        for container in engine.containers([f"{COMPOSE_PROJECT}={name}"]):
            state = engine.inspect(container["Id"])
            if state is not None and state["State"]["Running"]:
                found[container["Id"], state["State"]["StartedAt"]] = state
    return found


def changed_since(
    before: Mapping[tuple[str, str], Any],
    after: Mapping[tuple[str, str], Mapping[str, Any]],
) -> list[str]:
    """The names of those of `running` that were not there before."""
    return sorted(
        found["Name"].lstrip("/")
        for identity, found in after.items()
        if identity not in before
    )
