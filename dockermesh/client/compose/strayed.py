"""What plain `docker compose` did to a project that is in the mesh, by habit: `up -d` makes an app
anew outside of its pod, `down` takes the apps and leaves their pods, and with `--remove-orphans`
either takes the pods, too.

Invariant: what is left of pods is told by labels alone, so that it is found without the generated
file; where nothing is, that file tells that there were some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.client.compose.engine_record import (
    record_of,
    state_home,
    with_pods,
)
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.model.contract import (
    COMPOSE_ONE_OFF,
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_KIND,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
)
from dockermesh.model.workload import WorkloadKind


def strayed(
    engine: LocalEngine, project: str = "", *, is_starting: bool = False
) -> list[str]:
    """A sentence for each project, or for this one, that is not as `dockermesh up` left it. What is
    about to be started may be gone altogether.
    """
    label = f"{COMPOSE_PROJECT}={project}" if project else COMPOSE_PROJECT
    by_project: dict[str, list[Mapping[str, str]]] = {}
    for container in engine.containers([label]):
        labels = container["Labels"]
        by_project.setdefault(labels[COMPOSE_PROJECT], []).append(labels)
    meshed = _brought_up(engine, project)
    found = []
    for name in sorted({*by_project, *meshed}):
        containers = by_project.get(name, [])
        found += find_strayed(name, containers)
        if name in meshed and not (is_starting and not containers):
            found += find_bare(name, containers)
    return found


def _brought_up(engine: LocalEngine, project: str) -> list[str]:
    try:
        return with_pods(state_home(), record_of(engine, project))
    except InputError:
        return []


def find_bare(project: str, containers: Iterable[Mapping[str, str]]) -> list[str]:
    """The same of a project that had pods, where none is left."""
    containers = list(containers)
    if any(c.get(LABEL_ROLE) for c in containers):
        return []
    if any(_is_plain(c) for c in containers):
        return [
            f"{project}: `docker compose` has removed its pods and runs it outside of the mesh;"
            " `dockermesh up` brings it back"
        ]
    return [
        f"{project}: nothing of it is there, though `dockermesh down` did not remove it;"
        f" `dockermesh up` brings it back, `dockermesh down -p {project}` removes the rest"
    ]


def find_strayed(project: str, containers: Iterable[Mapping[str, str]]) -> list[str]:
    """The same, by the labels of a project's containers."""
    containers = list(containers)
    apps = {c[LABEL_WORKLOAD] for c in containers if c.get(LABEL_ROLE) == "app"}
    pods = {
        c[LABEL_WORKLOAD]: c.get(LABEL_SERVICE, "")
        for c in containers
        if c.get(LABEL_ROLE) == "pod" and c.get(LABEL_KIND) == WorkloadKind.SIDECAR
    }
    plain = {c.get(COMPOSE_SERVICE, "") for c in containers if _is_plain(c)}

    outside = sorted({service for service in pods.values() if service in plain})
    gone = sorted(
        {
            service
            for workload, service in pods.items()
            if workload not in apps and service not in plain
        }
    )
    found = []
    if outside:
        found.append(
            f"{project}: `docker compose up` has put {', '.join(outside)} outside of the mesh;"
            " `dockermesh up` brings it back"
        )
    if gone:
        found.append(
            f"{project}: `docker compose down` has taken {', '.join(gone)} and left the pods;"
            " `dockermesh up` brings it back, `dockermesh down` removes the rest"
        )
    return found


def _is_plain(labels: Mapping[str, Any]) -> bool:
    is_one_off = str(labels.get(COMPOSE_ONE_OFF, "")).lower() == "true"
    return not labels.get(LABEL_ROLE) and not is_one_off
