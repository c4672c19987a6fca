"""`up --mode node`, `attach` and `detach`: a project in the mesh as it is, served by its host's
proxy.

Invariant: a project is attached before any of its containers is started, so that no connection of
theirs passes the proxy by.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockermesh.client.compose import node
from dockermesh.client.compose.bring_up import (
    UpOptions,
    UpResult,
    settle,
    start_mesh,
)
from dockermesh.client.compose.compose_call import Say, call_compose, timed
from dockermesh.client.compose.running import changed_since, running
from dockermesh.client.compose.service_steps import ServiceSteps, parts_of
from dockermesh.client.compose.waiting import Settled, wait_ready, wait_synced
from dockermesh.client.images.preparing import prepare_mesh
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError, NotReadyError
from dockermesh.inject.options import Injection
from dockermesh.model.attached import Attached
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    LABEL_ROLE,
    MESH_NETWORK,
    MESH_PROJECT,
    NODE_AGENT_CONTAINER,
)
from dockermesh.model.workload import WorkloadKind
from dockermesh.registrar.container import Container, parse_container
from dockermesh.registrar.node_mode import Brought, as_workload
from dockermesh.runtime.timeline import span

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class PlainProject:
    """A project, and Compose's options that mean it."""

    project: Mapping[str, Any]
    arguments: tuple[str, ...]
    network: str = ""

    @property
    def name(self) -> str:
        """What Compose calls it."""
        return str(self.project["name"])


def bring_up_plain(plain: PlainProject, options: UpOptions, say: Say) -> UpResult:
    """Start the mesh and the project as it is, and return when its workloads are served.

    Raises EngineError when Docker or Compose fails, InputError for a project that has sidecars or
    a port that is taken, NotReadyError at the time-out.
    """
    engine = LocalEngine()
    _refuse_sidecars(engine, plain.name)
    before = running(engine, plain.name)
    client, deadline = _mesh(engine, plain, options, say)
    node.attach(engine, projects=[plain.name])

    with timed(say, f"app {plain.name} started"):
        call_compose(
            list(plain.arguments),
            ["up", "-d", *(["--build"] if options.build else [])],
            f"start {plain.name}",
            on_line=ServiceSteps(parts_of(plain.project), options.step),
        )
    # What was pulled and built meanwhile has taken its time.
    deadline = max(deadline, time.monotonic() + options.timeout)
    with span("resources stored"):
        for item in options.resources:
            client.put(item.path, dict(item.document))
    expected = _workloads(engine, Attached(projects=frozenset({plain.name})))
    settled = _wait(engine, client, plain.name, expected, deadline, options, say)

    after = running(engine, plain.name)
    changed = changed_since(before, after)
    return UpResult(settled.workloads, [], changed, warnings=settled.warnings)


def attach_running(
    names: Sequence[str], options: UpOptions, say: Say
) -> list[dict[str, Any]]:
    """Take running projects or containers in. Returns their workloads when they are served.

    Raises InputError for a name that nothing has, or that has sidecars.
    """
    engine = LocalEngine()
    projects, containers = _split(engine, names)
    for project in projects:
        _refuse_sidecars(engine, project)
    empty = PlainProject({"name": MESH_PROJECT, "services": {}}, ())
    client, deadline = _mesh(engine, empty, options, say)
    node.attach(engine, projects=projects, containers=containers)

    wanted = Attached(frozenset(projects), frozenset(containers))
    expected = _workloads(engine, wanted)
    if not expected:
        say("nothing of it runs in a network of its own: nothing is taken in yet")
        return []
    title = ", ".join(names)
    settled = _wait(engine, client, title, expected, deadline, options, say)
    return settled.workloads


def detach_running(names: Sequence[str], timeout: float, say: Say) -> set[str]:
    """Let projects or containers go; they run on. Returns the workloads that they were."""
    engine = LocalEngine()
    if not node.runs(engine):
        raise InputError(
            "nothing is attached on this engine",
            where=NODE_AGENT_CONTAINER,
            fix="`dockermesh attach PROJECT` takes a project in",
        )
    projects, containers = _split(engine, names)
    leaving = _workloads(engine, Attached(frozenset(projects), frozenset(containers)))
    node.detach(engine, projects=projects, containers=containers)
    with timed(say, "let go"):
        _until(
            lambda: not leaving & node.captured(engine),
            time.monotonic() + timeout,
            "they are still led to the proxy",
        )
    return leaving


# the mesh
# --------------------------------------------------------------------------------------------------


def _mesh(
    engine: LocalEngine, plain: PlainProject, options: UpOptions, say: Say
) -> tuple[MeshClient, float]:
    """Have the mesh run, with this host's proxy and agent; the deadline starts with the images."""
    injection = Injection(dict(plain.project), {})
    with span("engine, ports and subnets looked at"):
        chosen = settle(engine, injection, options.registry)
    with span("the mesh's images looked at"):
        prepare_mesh(engine, options.registry, say, options.step)
    network = plain.network or MESH_NETWORK
    start_mesh(engine, network, chosen.settings, options, None, say)
    deadline = time.monotonic() + options.timeout
    for note in chosen.notes:
        say(note)

    client = MeshClient(engine)
    with span("control plane ready"):
        wait_ready(client, deadline)
    with timed(say, "this host's proxy is ready"):
        _until(
            lambda: _has_node(client),
            deadline,
            "this host's proxy is not in sync: see `docker logs dockermesh-node-proxy`",
        )
    return client, deadline


def _has_node(client: MeshClient) -> bool:
    return any(
        w["kind"] == WorkloadKind.NODE and w["xds"] == "SYNCED"
        for w in client.workloads()["workloads"]
    )


# what is meant
# --------------------------------------------------------------------------------------------------


def _split(engine: LocalEngine, names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Which are projects and which containers, by their names."""
    projects, containers = [], []
    for name in names:
        if engine.containers([f"{COMPOSE_PROJECT}={name}"]):
            projects.append(name)
            continue
        found = engine.inspect(name)
        if found is None:
            raise InputError(
                f"neither a project nor a container is called {name!r}",
                fix="`docker compose ls` has the projects, `docker ps` the containers",
            )
        containers.append(str(found["Name"]).lstrip("/"))
    return projects, containers


def _refuse_sidecars(engine: LocalEngine, project: str) -> None:
    found = engine.containers([f"{COMPOSE_PROJECT}={project}"])
    if any(LABEL_ROLE in c["Labels"] for c in found):
        raise InputError(
            f"{project} runs with sidecars",
            where=project,
            fix="take it down first: `dockermesh down`",
        )


def _workloads(engine: LocalEngine, attached: Attached) -> set[str]:
    """The workloads that these stand for, as far as they run."""
    of_projects = (
        engine.containers([f"{COMPOSE_PROJECT}={name}"]) for name in attached.projects
    )
    ids = {summary["Id"] for found in of_projects for summary in found}
    found = set()
    for name in sorted(ids | attached.containers):
        data = engine.inspect(name)
        if data is not None and data["State"]["Running"]:
            container = _as_workload(data, attached)
            if container.is_node_mode:
                found.add(container.group)
    return found


def _as_workload(data: Mapping[str, Any], attached: Attached) -> Container:
    # Whatever an image may say: these were named by the user.
    return as_workload(parse_container(data), Brought(), attached)


# waiting
# --------------------------------------------------------------------------------------------------


def _wait(
    engine: LocalEngine,
    client: MeshClient,
    title: str,
    expected: set[str],
    deadline: float,
    options: UpOptions,
    say: Say,
) -> Settled:
    with timed(say, "workloads served"):
        settled = wait_synced(
            engine,
            client,
            title,
            expected,
            deadline,
            step=options.step,
            is_strict=options.is_strict,
        )
        _until(
            lambda: _are_led(engine, expected, settled),
            deadline,
            "their connections are not led to the proxy yet: see `docker logs"
            " dockermesh-node-agent`",
        )
    return settled


def _are_led(engine: LocalEngine, expected: set[str], settled: Settled) -> bool:
    """Whether all are led to the proxy, but for those that have done their work meanwhile."""
    missing = expected - node.captured(engine)
    apps = {w["name"]: w["app_container"] for w in settled.workloads}
    return all(name in apps and not _is_running(engine, apps[name]) for name in missing)


def _is_running(engine: LocalEngine, container: str) -> bool:
    found = engine.inspect(container)
    return found is not None and bool(found["State"]["Running"])


def _until(holds: Callable[[], bool], deadline: float, otherwise: str) -> None:
    while not holds():
        if time.monotonic() > deadline:
            raise NotReadyError(otherwise, fix="see `dockermesh ps`")
        time.sleep(_POLL_S)
