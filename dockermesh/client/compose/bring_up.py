"""`up` and `down`: inject plus `docker compose up`, nothing hidden.

The order is: load and inject (nothing is started if that fails), look for what would fail later
(ports, engine), the images, the mesh itself, the app, its Istio resources, and then wait until
every proxy of the project accepted its configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockermesh.client.compose.compose_failure import reason, remedy
from dockermesh.client.compose.engine_record import (
    folder_of,
    forget,
    record_of,
    remember,
)
from dockermesh.client.compose.engine_socket import check_socket, socket_on_host
from dockermesh.client.compose.gateway_urls import gateway_urls, published_host
from dockermesh.client.compose.host_ports import check_ports
from dockermesh.client.compose.kernel_limits import FIX, watch_shortage
from dockermesh.client.compose.mesh_files import mesh_file
from dockermesh.client.compose.subnets import overlaps
from dockermesh.client.compose.waiting import (
    expected_workloads,
    not_ready,
    wait_ready,
    wait_synced,
)
from dockermesh.client.images.preparing import prepare_app, prepare_mesh
from dockermesh.client.mesh.applying import Item
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.compose import project_arguments, run_compose
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError, InputError, NotReadyError
from dockermesh.inject.options import Injection
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    CONTROL_PLANE_CONTAINER,
    ENV_NETWORK,
    ENV_REGISTRY,
    LABEL_NETWORK,
    LABEL_ROLE,
    MESH_NETWORK,
    MESH_PROJECT,
)
from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS
from dockermesh.runtime.files import PRIVATE, replace_file

Say = Callable[[str], None]
DEPENDENCIES = frozenset({"consul"})
"""What the control plane depends on in mesh.yaml."""


def _quiet(_: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` is told beside the injected project. `timeout` is in seconds, and starts when all
    images are there.
    """

    registry: str = DEFAULT_REGISTRY
    timeout: float = 120.0
    resources: tuple[Item, ...] = ()
    build: bool = False
    step: Say = _quiet
    """Told of each step of a build or pull while it happens."""


@dataclass(frozen=True, slots=True)
class UpResult:
    """What runs now. `changed` are the containers that were created or started by this call."""

    workloads: list[dict[str, Any]]
    urls: list[tuple[str, str]]
    changed: list[str] = field(default_factory=list)


STATE_FIX = "name a folder that you may write: XDG_STATE_HOME=/path (or HOME)"


def state_home() -> Path:
    """Where generated projects are kept: $XDG_STATE_HOME/dockermesh.

    Raises InputError for a user without a home.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder", where="HOME", fix=STATE_FIX
        ) from error
    return Path(base) / "dockermesh"


def mesh_environment() -> dict[str, str]:
    """The environment for `mesh_file`."""
    found = dict(os.environ)
    # Its images are here when it is started; whatever the user's own setting, none is pulled then.
    found["DOCKERMESH_PULL"] = "never"
    return found


def bring_up(injection: Injection, text: str, options: UpOptions, say: Say) -> UpResult:
    """Start the mesh and the project, and return when every proxy is in sync.

    Raises EngineError when Docker or Compose fails, InputError for a port that is taken,
    NotReadyError at the time-out.
    """
    project = str(injection.project["name"])
    engine = LocalEngine()
    before = _running(engine, project)
    check_ports(engine, project, injection.ports)
    short = watch_shortage(_proxies_with(engine, injection))
    if short and engine.address.is_socket:
        say(f"warning: {short}; {FIX}")
    # Before anything is started: `down` goes by this file, whatever fails on the way.
    file = _save(engine, project, text)
    prepare_mesh(engine, options.registry, say, options.step)

    with ThreadPoolExecutor(2) as pool:
        # The app's images do not need the mesh: both are made ready side by side.
        images = pool.submit(_prepare_app, engine, injection, file, options, say)
        _start_mesh(engine, mesh_network(injection), options, say)
        # Raises what failed in the other thread; a pool by itself keeps it to itself.
        images.result()

    # From here on: a first build takes longer than any limit that makes sense.
    deadline = time.monotonic() + options.timeout
    with _timed(say, f"app {project} started"):
        _start_app(engine, file, project, deadline)
    client = MeshClient(engine)
    wait_ready(client, deadline)
    # Before the wait: when `up` returns, the proxies have these as well.
    for item in options.resources:
        client.put(item.path, dict(item.document))
    with _timed(say, "proxies in sync"):
        workloads = wait_synced(
            engine, client, project, expected_workloads(injection), deadline
        )
    after = _running(engine, project)
    changed = sorted(name for identity, name in after.items() if identity not in before)
    urls = gateway_urls(injection.ports, published_host(engine, client.route))

    return UpResult(workloads, urls, changed)


def bring_down(project: str, *, volumes: bool, say: Say) -> list[str]:
    """Remove a project, and the mesh too when no other project is left in it. Returns what was
    removed.
    """
    engine = LocalEngine()
    removed = _names(engine, f"{COMPOSE_PROJECT}={project}")
    flags = ["--remove-orphans", *(["--volumes"] if volumes else [])]
    if removed:
        with _timed(say, f"app {project} removed"):
            _compose(
                _down_arguments(engine, project),
                ["down", *flags],
                f"remove {project}",
                _few_at_once(os.environ),
            )

    folder = folder_of(state_home(), record_of(engine, project))
    try:
        forget(folder)
    except OSError as error:
        say(f"{folder} stays: {error.strerror}")

    # Stopped ones count: their project can be started again, and finds its mesh then.
    others = {
        c["Labels"].get(COMPOSE_PROJECT, "")
        for c in engine.containers([LABEL_ROLE])
        if c["Labels"].get(COMPOSE_PROJECT) != project
    }
    mesh = _names(engine, f"{COMPOSE_PROJECT}={MESH_PROJECT}")

    if mesh and not others:
        with _timed(say, "mesh removed"):
            _compose(
                ["-f", str(mesh_file()), "-p", MESH_PROJECT],
                ["down", *flags],
                "remove the mesh",
                _few_at_once(mesh_environment()),
            )

        removed += mesh
    elif mesh:
        say(f"the mesh stays: {', '.join(sorted(others))} still use it")

    return removed


def _few_at_once(env: Mapping[str, str]) -> dict[str, str]:
    # Docker 20.10 forgets to take containers off their networks when it removes many at once, and
    # no `down` succeeds then before it was restarted. It is no slower so.
    return {"COMPOSE_PARALLEL_LIMIT": "6", **env}


def _down_arguments(engine: LocalEngine, project: str) -> list[str]:
    # Without its file, Compose finds a project's containers by their labels.
    saved = folder_of(state_home(), record_of(engine, project)) / "compose.yaml"
    return project_arguments([str(saved)] if saved.is_file() else [], project)


def _proxies_with(engine: LocalEngine, injection: Injection) -> int:
    """How many proxies the engine will have."""
    project = injection.project["name"]
    others = (
        c
        for c in engine.containers([f"{LABEL_ROLE}=proxy"])
        if c["Labels"].get(COMPOSE_PROJECT) != project
    )
    return sum(1 for _ in others) + len(expected_workloads(injection))


# preparation
# --------------------------------------------------------------------------------------------------


def _save(engine: LocalEngine, project: str, text: str) -> Path:
    record = record_of(engine, project)
    folder = folder_of(state_home(), record)
    file = folder / "compose.yaml"

    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode(), PRIVATE)
        remember(folder, record)
    except OSError as error:
        raise InputError(
            f"the generated project cannot be written: {error.strerror}",
            where=str(file),
            fix=STATE_FIX,
        ) from error

    return file


def _prepare_app(
    engine: LocalEngine, injection: Injection, file: Path, options: UpOptions, say: Say
) -> None:
    start = time.monotonic()
    project = injection.project
    count = prepare_app(
        engine, project, file, build_all=options.build, step=options.step
    )
    if count:
        say(f"{count} app images ready ({time.monotonic() - start:.1f} s)")


def mesh_network(injection: Injection) -> str:
    """The network that the project's pods joined as the mesh network."""
    for service in injection.project["services"].values():
        labels = service.get("labels") or {}
        if labels.get(LABEL_ROLE) == "pod":
            return str(labels.get(LABEL_NETWORK) or MESH_NETWORK)
    return MESH_NETWORK


def _mesh_files(engine: LocalEngine, network: str) -> list[str]:
    """mesh.yaml; and the file that has the mesh use a network which somebody else made.

    Raises InputError when the mesh of this host already runs on another network.
    """
    running = engine.inspect(CONTROL_PLANE_CONTAINER)
    if running is not None and network not in running["NetworkSettings"]["Networks"]:
        raise InputError(
            f"the mesh of this host runs on another network than {network}",
            where=CONTROL_PLANE_CONTAINER,
            fix="take its projects down first, or leave out --network",
        )

    files = ["-f", str(mesh_file())]
    owner = engine.network_labels(network)
    if owner is not None and owner.get(COMPOSE_PROJECT) != MESH_PROJECT:
        files += ["-f", str(mesh_file().with_name("external-network.yaml"))]

    return files


def mesh_arguments(registry: str) -> list[str]:
    """What `docker compose up` is told to start of mesh.yaml for this registry."""
    servers = SERVERS[registry]
    # Told to ignore what the control plane depends on, Compose would also forget the order of
    # starting: so only where that is another registry's server.
    flags = [] if servers >= DEPENDENCIES else ["--no-deps"]
    return [*flags, *sorted(servers), "control-plane"]


def _start_mesh(
    engine: LocalEngine, network: str, options: UpOptions, say: Say
) -> None:
    environment = mesh_environment() | {
        ENV_REGISTRY: options.registry,
        ENV_NETWORK: network,
        "DOCKER_SOCK": socket_on_host(engine, os.environ),
    }
    files = _mesh_files(engine, network)
    known = engine.inspect(CONTROL_PLANE_CONTAINER)
    label = (
        "mesh is up"
        if known is not None and known["State"]["Running"]
        else "mesh started"
    )

    with _timed(say, label):
        try:
            _compose(
                [*files, "-p", MESH_PROJECT],
                # Built already, from what is installed.
                ["up", "-d", "--no-build", *mesh_arguments(options.registry)],
                "start the mesh",
                environment,
            )
        except EngineError as error:
            for detail, fix in overlaps(engine.subnets(), environment):
                raise EngineError(
                    detail, where="the mesh's networks", fix=fix
                ) from error
            raise

    check_socket(engine, CONTROL_PLANE_CONTAINER, environment["DOCKER_SOCK"])


def _start_app(engine: LocalEngine, file: Path, project: str, deadline: float) -> None:
    """Start the project. Compose itself would wait minutes for a pod that the control plane does
    not serve.
    """
    arguments = project_arguments([str(file)], project)
    try:
        left = max(1.0, deadline - time.monotonic())
        _compose(
            arguments,
            # Each replica is a service of its own here: one that is not wanted any more is an
            # orphan.
            ["up", "-d", "--no-build", "--remove-orphans"],
            f"start {project}",
            timeout=left,
        )
    except TimeoutError as error:
        missing = MeshClient(engine).readiness()
        if missing:
            raise not_ready(missing) from error
        raise NotReadyError(
            f"the containers of {project} did not start in time",
            where=project,
            fix=(
                "see `dockermesh ps`, and the logs of its pods; `dockermesh down` removes what was"
                " started"
            ),
        ) from error


def _compose(
    options: list[str],
    command: list[str],
    doing: str,
    env: Mapping[str, str] | None = None,
    *,
    timeout: float | None = None,
) -> None:
    done = run_compose(
        ["--progress", "plain", *options, *command], env=env, timeout=timeout
    )
    if done.returncode != 0:
        why, fix = (
            reason(done.stderr, done.returncode),
            remedy(done.stderr, env or os.environ),
        )
        raise EngineError(f"Compose could not {doing}: {why}", fix=fix)


# results
# --------------------------------------------------------------------------------------------------


def _running(engine: LocalEngine, project: str) -> dict[tuple[str, str], str]:
    """Containers of the project and the mesh by id and start: a restart is a change, too."""
    found = {}
    for name in (project, MESH_PROJECT):
        for container in engine.containers([f"{COMPOSE_PROJECT}={name}"]):
            state = engine.inspect(container["Id"])
            if state is not None and state["State"]["Running"]:
                found[container["Id"], state["State"]["StartedAt"]] = container[
                    "Names"
                ][0].lstrip("/")
    return found


def _names(engine: LocalEngine, label: str) -> list[str]:
    return sorted(
        c["Names"][0].lstrip("/") for c in engine.containers([label]) if c["Names"]
    )


@contextmanager
def _timed(say: Say, what: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    say(f"{what} ({time.monotonic() - start:.1f} s)")
