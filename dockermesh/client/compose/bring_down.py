"""`down`: a project leaves, and the mesh with the last one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from dockermesh.client.compose import node
from dockermesh.client.compose.compose_call import Say, call_compose, quiet, timed
from dockermesh.client.compose.ending import AT_ONCE, PodEnder
from dockermesh.client.compose.engine_record import (
    GENERATED_FILE,
    folder_of,
    forget,
    record_of,
    state_home,
)
from dockermesh.client.compose.leftovers import remove_leftovers
from dockermesh.client.compose.mesh_files import mesh_environment, mesh_file
from dockermesh.client.compose.service_steps import ServiceSteps, parts_running
from dockermesh.client.compose.stuck_networks import (
    is_stuck,
    is_used,
    release_networks,
)
from dockermesh.client.compose.telemetry import stop_telemetry
from dockermesh.docker.compose import ALL_PROFILES, project_arguments
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.summary import names_of
from dockermesh.errors import EngineError
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_ROLE,
    MESH_PROJECT,
)
from dockermesh.runtime.timeline import span

_PARTS = frozenset({"pod", "proxy"})


def bring_down(
    project: str, *, volumes: bool, say: Say, step: Say = quiet
) -> list[str]:
    """Remove a project, and the mesh too when no other project is left in it. Returns what was
    removed.
    """
    engine = LocalEngine()
    containers = engine.containers([f"{COMPOSE_PROJECT}={project}"])
    mesh = engine.containers([f"{COMPOSE_PROJECT}={MESH_PROJECT}"])
    others = _others(engine, project) | node.attached_projects(engine) - {project}
    folder = folder_of(state_home(), record_of(engine, project))
    down = ["down", "--remove-orphans", *(["--volumes"] if volumes else [])]
    removed = names_of(containers)

    is_last = bool(mesh) and not others
    # Before the network that it is on, and before Prometheus asks for what is not there any more.
    if is_last:
        removed += stop_telemetry(engine, volumes=volumes, say=say)
        # Whoever runs on must not wait for a proxy that is gone.
        node.release(engine)

    def remove_mesh() -> None:
        gone = [*names_of(containers), *names_of(mesh)]
        with (
            timed(say, "mesh removed"),
            _past_stuck_networks(engine, MESH_PROJECT, gone, say, volumes),
        ):
            call_compose(
                _mesh(), down, "remove the mesh", _few_at_once(mesh_environment())
            )

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(_stop_mesh) if is_last and containers else None
        ended = None
        # A record without containers: plain `docker compose down` was here.
        if containers or folder.is_dir():
            file = folder / GENERATED_FILE
            arguments = _arguments(file, project)
            steps = ServiceSteps(parts_running(containers), step)
            with timed(say, f"app {project} removed"):
                haste, is_free = _stop_apps(engine, file, arguments, containers, steps)
                if stopped is not None and is_free:
                    ended = pool.submit(remove_mesh)
                with _past_stuck_networks(engine, project, removed, say, volumes):
                    _compose(arguments, [*down, *haste], f"remove {project}", steps)
        if stopped is not None:
            stopped.result()

    if not is_last:
        node.detach(engine, projects=[project])
    with span("leftovers removed"):
        removed += remove_leftovers(engine, project, folder, volumes=volumes)
    try:
        forget(folder)
    except OSError as error:
        say(f"{folder} stays: {error.strerror}")

    if is_last:
        ended.result() if ended is not None else remove_mesh()
        removed += names_of(mesh)
    elif mesh:
        say(f"the mesh stays: {', '.join(sorted(others))} still use it")

    return removed


@contextmanager
def _past_stuck_networks(
    engine: LocalEngine, project: str, removed: Sequence[str], say: Say, volumes: bool
) -> Iterator[None]:
    """Finish what Compose gave up because of networks that the engine would not let go, the last
    but volumes of what it removes.
    """
    try:
        yield
    except EngineError as error:
        if not is_stuck(error):
            raise
        label = f"{COMPOSE_PROJECT}={project}"
        networks = engine.project_networks(label)
        if any(is_used(engine, network) for network in networks):
            raise
        release_networks(engine, networks, removed, say)
        for volume in engine.volumes([label]) if volumes else ():
            engine.remove_volume(volume["Name"])


def _others(engine: LocalEngine, project: str) -> set[str]:
    # Stopped ones count: their project can be started again, and finds its mesh then.
    return {
        c["Labels"].get(COMPOSE_PROJECT, "")
        for c in engine.containers([LABEL_ROLE])
        # The node's own parts are the mesh's.
        if c["Labels"].get(COMPOSE_PROJECT) not in {project, MESH_PROJECT}
    }


def _stop_mesh() -> None:
    """Begin with the mesh, which nobody else needs, while the app is still on its way."""
    call_compose(_mesh(), ["stop"], "stop the mesh", _few_at_once(mesh_environment()))


def _stop_apps(
    engine: LocalEngine,
    file: Path,
    arguments: list[str],
    containers: Sequence[Mapping[str, Any]],
    steps: ServiceSteps,
) -> tuple[list[str], bool]:
    """Stop the apps in their order and with their grace, and remove each one's pod meanwhile.
    Returns how to remove the rest, and whether there were pods, all of which are gone.
    """
    running = [c["Labels"] for c in containers if c["State"] == "running"]
    apps = {
        labels.get(COMPOSE_SERVICE, "")
        for labels in running
        if labels.get(LABEL_ROLE) not in _PARTS
    }
    # Compose knows no others: an app that plain Compose made may have another name.
    known = sorted(apps & _services(file))
    if len(known) < len(apps):
        if known:
            _compose(arguments, ["stop", *known], "stop the apps", steps)
        return [], False

    with PodEnder(engine, containers) as ender:

        def hear(line: str) -> None:
            steps(line)
            ender(line)

        if known:
            # All at once, as they are without the mesh: their networks are their pods'.
            stop = ["stop", *known]
            call_compose(arguments, stop, "stop the apps", os.environ, on_line=hear)
    return ["--timeout", "0"], ender.has_ended_all()


def _services(file: Path) -> set[str]:
    """The services of a generated file; none where it is gone or no such file."""
    try:
        found = yaml.load(file.read_bytes(), Loader=yaml.CSafeLoader)
        return set(found["services"])
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return set()


def _compose(
    arguments: list[str], command: list[str], doing: str, steps: ServiceSteps
) -> None:
    call_compose(arguments, command, doing, _few_at_once(os.environ), on_line=steps)


def _few_at_once(env: Mapping[str, str]) -> dict[str, str]:
    return {"COMPOSE_PARALLEL_LIMIT": str(AT_ONCE), **env}


def _arguments(saved: Path, project: str) -> list[str]:
    # Without its file, Compose finds a project's containers by their labels.
    files = [str(saved)] if saved.is_file() else []
    return project_arguments(files, project, profiles=[ALL_PROFILES])


def _mesh() -> list[str]:
    files = (mesh_file(), node.node_file())
    return [*(part for file in files for part in ("-f", str(file))), "-p", MESH_PROJECT]
