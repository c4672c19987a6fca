"""`up` and `down`: inject plus `docker compose up`, nothing hidden.

The order is: load and inject (nothing is started if that fails), look for what would fail later
(ports, engine), the images, the mesh itself, the app, its Istio resources, and then wait until
every proxy of the project accepted its configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockermesh.client.compose.app_health import unhealthy_apps
from dockermesh.client.compose.compose_call import Say, call_compose, quiet, timed
from dockermesh.client.compose.container_health import with_container_health
from dockermesh.client.compose.engine_socket import check_socket, socket_on_host
from dockermesh.client.compose.gateway_urls import gateway_urls, published_host
from dockermesh.client.compose.generated_file import keep
from dockermesh.client.compose.host_ports import HostPorts, check_ports, wanted_ports
from dockermesh.client.compose.kernel_limits import FIX, watch_shortage
from dockermesh.client.compose.leftovers import remember_anonymous
from dockermesh.client.compose.mesh_files import (
    explicit_setting,
    mesh_environment,
    mesh_file,
    settings_beside,
)
from dockermesh.client.compose.mesh_ports import Choice, choose_ports
from dockermesh.client.compose.node import (
    NODE_SERVICES,
    attached,
    detach,
    is_there,
    node_file,
    node_settings,
    not_shared,
)
from dockermesh.client.compose.running import changed_since, running
from dockermesh.client.compose.service_steps import Part, ServiceSteps, parts_of
from dockermesh.client.compose.settled import (
    forget_settled,
    is_settled,
    remember_settled,
)
from dockermesh.client.compose.strayed import strayed
from dockermesh.client.compose.subnets import (
    choose_subnets,
    declared_subnets,
    overlaps,
)
from dockermesh.client.compose.telemetry import (
    Telemetry,
    get_telemetry,
    spans_setting,
    start_telemetry,
    telemetry_urls,
)
from dockermesh.client.compose.waiting import (
    expected_workloads,
    not_ready,
    wait_ready,
    wait_synced,
)
from dockermesh.client.images.preparing import prepare_app, prepare_mesh
from dockermesh.client.mesh.applying import Item
from dockermesh.client.mesh.gateway_ports import unreachable_ports
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.compose import project_arguments
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError, InputError, NotReadyError
from dockermesh.inject.options import Injection
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    CONSUL_CONTAINER,
    CONTROL_PLANE_CONTAINER,
    ENV_NETWORK,
    ENV_REGISTRY,
    LABEL_NETWORK,
    LABEL_ROLE,
    MESH_NETWORK,
    MESH_PROJECT,
)
from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS
from dockermesh.runtime.timeline import span

DEPENDENCIES = frozenset({"consul"})
"""What the control plane depends on in mesh.yaml."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `up` is told beside the injected project. `timeout` is in seconds, and starts when all
    images are there.
    """

    registry: str = DEFAULT_REGISTRY
    timeout: float = 120.0
    resources: tuple[Item, ...] = ()
    build: bool = False
    explicit: bool | None = None
    """Whether containers outside of the mesh need a SERVICE_NAME; None: as the mesh has it."""
    is_strict: bool = False
    """Whether an app whose health check fails is an error, and not only told."""
    telemetry: bool = False
    """Whether Prometheus, Grafana and Zipkin are started beside the mesh."""
    step: Say = quiet
    """Told of each step of a build, a pull, and of a service, while it happens."""
    with_node: bool = False
    """Whether the mesh also has the proxy of this host, or keeps it."""


@dataclass(frozen=True, slots=True)
class UpResult:
    """What runs now. `changed` are the containers that were created or started by this call,
    `warnings` tell of apps that run and are not healthy.
    """

    workloads: list[dict[str, Any]]
    urls: list[tuple[str, str]]
    changed: list[str] = field(default_factory=list)
    telemetry: tuple[tuple[str, str], ...] = ()
    """Title and URL on the engine's host of each that shows telemetry, if that was asked for."""
    warnings: tuple[str, ...] = ()


_MESH_PARTS = {
    name: Part(name, "") for name in (CONSUL_CONTAINER, CONTROL_PLANE_CONTAINER)
}


def bring_up(injection: Injection, text: str, options: UpOptions, say: Say) -> UpResult:
    """Start the mesh and the project, and return when every proxy is in sync.

    Raises EngineError when Docker or Compose fails, InputError for a port that is taken,
    NotReadyError at the time-out.
    """
    project = str(injection.project["name"])
    engine = LocalEngine()
    with span("engine, ports and subnets looked at"):
        before = running(engine, project)
        for sentence in strayed(engine, project, is_starting=True):
            say(sentence)
        mesh = settle(engine, injection, options.registry)
        short = watch_shortage(_proxies_with(engine, injection))
    if short and engine.address.is_socket:
        say(f"warning: {short}; {FIX}")
    # Before anything is started: `down` goes by this file, whatever fails on the way.
    file = keep(engine, project, text)
    with span("the mesh's images looked at"):
        prepare_mesh(engine, options.registry, say, options.step)
    shown = get_telemetry(engine, say, options.step) if options.telemetry else None

    with ThreadPoolExecutor(2) as pool:
        # The app's images do not need the mesh: both are made ready side by side.
        images = pool.submit(_prepare_app, engine, injection, file, options, say)
        start_mesh(engine, mesh_network(injection), mesh.settings, options, shown, say)
        # Raises what failed in the other thread; a pool by itself keeps it to itself.
        images.result()

    # From here on: a first build takes longer than any limit that makes sense.
    deadline = time.monotonic() + options.timeout
    if is_settled(engine, injection.project, file.parent, text):
        say(f"app {project} is up")
    else:
        forget_settled(file.parent)
        with timed(say, f"app {project} started"):
            _start_app(engine, injection, file, deadline, options.step)
    for note in mesh.notes:
        say(note)
    if project in attached(engine).projects:
        detach(engine, projects=[project])
    client = MeshClient(engine)
    with span("control plane ready"):
        wait_ready(client, deadline)
    if shown is not None:
        start_telemetry(
            engine,
            shown,
            mesh_network(injection),
            wanted_ports(injection),
            say,
            options.step,
        )
    # Before the wait: when `up` returns, the proxies have these as well.
    with span("resources stored"):
        for item in options.resources:
            client.put(item.path, dict(item.document))
    with timed(say, "proxies in sync"):
        settled = wait_synced(
            engine,
            client,
            project,
            expected_workloads(injection),
            deadline,
            step=options.step,
            is_strict=options.is_strict,
        )
    with span("result looked at"):
        for sentence in unreachable_ports(client):
            say(f"warning: {sentence}")
        after = running(engine, project)
        with suppress(OSError):
            # Those of before, too: what plain Compose made goes, and its volumes are ours to find.
            remember_anonymous(file.parent, (*before.values(), *after.values()))
        remember_settled(engine, project, file.parent, text)
        host = published_host(engine, client.route)

    return UpResult(
        with_container_health(engine, settled.workloads),
        gateway_urls(injection.ports, host),
        changed_since(before, after),
        tuple(telemetry_urls(engine)) if shown is not None else (),
        settled.warnings,
    )


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


def _prepare_app(
    engine: LocalEngine, injection: Injection, file: Path, options: UpOptions, say: Say
) -> None:
    start = time.monotonic()
    project = injection.project
    with span("the app's images looked at"):
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


def start_mesh(
    engine: LocalEngine,
    network: str,
    settings: Mapping[str, str],
    options: UpOptions,
    shown: Telemetry | None,
    say: Say,
) -> None:
    """Have the mesh run with these settings, on this network. Raises EngineError."""
    environment = mesh_environment() | {
        **settings,
        ENV_REGISTRY: options.registry,
        ENV_NETWORK: network,
        "DOCKER_SOCK": socket_on_host(engine, os.environ),
    }
    files = _mesh_files(engine, network)
    of_node: list[str] = []
    if options.with_node or is_there(engine):
        files += ["-f", str(node_file())]
        of_node = [*NODE_SERVICES]
        environment |= node_settings(engine)
    known = engine.inspect(CONTROL_PLANE_CONTAINER)
    environment |= explicit_setting(options.explicit, os.environ, known)
    environment |= spans_setting(shown, os.environ, known)
    label = (
        "mesh is up"
        if known is not None and known["State"]["Running"]
        else "mesh started"
    )

    with timed(say, label):
        try:
            call_compose(
                [*files, "-p", MESH_PROJECT],
                # Built already, from what is installed.
                ["up", "-d", "--no-build", *mesh_arguments(options.registry), *of_node],
                "start the mesh",
                environment,
                on_line=ServiceSteps(_MESH_PARTS, options.step),
            )
        except EngineError as error:
            if of_node and (reason := not_shared(error.what)):
                raise reason from error
            for detail, fix in overlaps(engine.subnets(), environment):
                raise EngineError(
                    detail, where="the mesh's networks", fix=fix
                ) from error
            raise

    check_socket(engine, CONTROL_PLANE_CONTAINER, environment["DOCKER_SOCK"])


def settle(engine: LocalEngine, injection: Injection, registry: str) -> Choice:
    """Which subnets and ports of the host the mesh is to have, after a look at what the app
    wants.
    """
    host, wanted = HostPorts(engine), wanted_ports(injection)
    check_ports(host, str(injection.project["name"]), wanted)
    said = {**settings_beside(mesh_file()), **os.environ}

    networks = choose_subnets(
        engine.subnets(),
        declared_subnets(injection.project),
        said,
        mesh_network(injection),
    )
    containers = {f"{MESH_PROJECT}-{name}" for name in SERVERS[registry]}
    ports = choose_ports(
        engine,
        host,
        wanted,
        said,
        {*containers, CONTROL_PLANE_CONTAINER},
        networks.gateway,
    )
    return Choice(
        {**networks.settings, **ports.settings}, (*networks.notes, *ports.notes)
    )


def _start_app(
    engine: LocalEngine, injection: Injection, file: Path, deadline: float, step: Say
) -> None:
    """Start the project. Compose itself would wait minutes for a pod that the control plane does
    not serve.
    """
    project = str(injection.project["name"])
    try:
        call_compose(
            project_arguments([str(file)], project),
            # Each replica is a service of its own here: one that is not wanted any more is an
            # orphan. The images are there: what a pull takes is not counted.
            ["up", "-d", "--no-build", "--pull", "never", "--remove-orphans"],
            f"start {project}",
            # The file has it decided which profiles are enabled.
            {**os.environ, "COMPOSE_PROFILES": ""},
            timeout=max(1.0, deadline - time.monotonic()),
            on_line=ServiceSteps(parts_of(injection.project), step),
        )
    except EngineError as error:
        what = "\n".join([error.what, *unhealthy_apps(engine, project)])
        raise EngineError(what, where=error.where, fix=error.fix) from error
    except TimeoutError as error:
        missing = MeshClient(engine).readiness()
        if missing:
            raise not_ready(missing) from error
        late = f"the containers of {project} did not start in time"
        raise NotReadyError(
            "\n".join([late, *unhealthy_apps(engine, project)]),
            where=project,
            fix=(
                "see `dockermesh ps`, and the logs of its pods; `dockermesh down` removes what was"
                " started"
            ),
        ) from error
