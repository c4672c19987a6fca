"""What shows telemetry, beside the mesh: Prometheus, Grafana and Zipkin, as `up --telemetry` starts
them and `down` removes them.

Invariant: they are a Compose project of their own, which needs the mesh's network and volume: it
starts after the mesh and goes before it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dockermesh.client.compose.bind_mounts import HostPath
from dockermesh.client.compose.compose_call import Say, call_compose, timed
from dockermesh.client.compose.doctor_finding import Finding, Verdict
from dockermesh.client.compose.host_ports import HostPorts, WantedPort
from dockermesh.client.compose.mesh_files import (
    kept_setting,
    mesh_environment,
    mesh_file,
    settings_beside,
)
from dockermesh.client.compose.mesh_ports import TELEMETRY_PORTS, choose_ports, has_now
from dockermesh.client.compose.service_steps import Part, ServiceSteps
from dockermesh.client.images.telemetry import MAKERS, prepare_telemetry
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.image_store import ImageStore
from dockermesh.docker.summary import names_of
from dockermesh.inject.images import variable
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    ENV_NETWORK,
    ENV_SPANS_TO,
    SPANS_PORT,
    TELEMETRY_PROJECT,
    ZIPKIN_CONTAINER,
)

_TITLES = {"prometheus": "Prometheus", "grafana": "Grafana", "zipkin": "Zipkin"}
_SPANS_TO = f"http://{ZIPKIN_CONTAINER}:{SPANS_PORT}"
_REMEDY = (
    "copy the folder there, or take Prometheus' settings from docs/telemetry.md, with a"
    " Prometheus of your own"
)
_SEE_LOGS = f"see `docker compose -p {TELEMETRY_PROJECT} logs`"


@dataclass(frozen=True, slots=True)
class Telemetry:
    """What is to run, by the image of each service."""

    images: Mapping[str, str]

    @property
    def lacking(self) -> str:
        """What is left out, and why, as a sentence; empty if nothing is."""
        names = [name for name in MAKERS if name not in self.images]
        if not names:
            return ""
        titles = " and ".join(_TITLES[name] for name in names)
        wanted = " and ".join(MAKERS[name] for name in names)
        return (
            f"without {titles}: no registry was reached that has {wanted}; pull them by hand, or"
            f" name images that you have: {', '.join(variable(name) for name in names)}"
        )


def get_telemetry(engine: LocalEngine, say: Say, step: Say) -> Telemetry:
    """Have the images on the engine. Raises EngineError."""
    # With the first of them it was decided: without a registry each question takes 20 s.
    is_new = not engine.containers([f"{COMPOSE_PROJECT}={TELEMETRY_PROJECT}"])
    store = ImageStore(engine)
    found = Telemetry(prepare_telemetry(store, say, step, may_ask=is_new))
    if found.lacking:
        say(found.lacking)
    return found


def telemetry_paths() -> Iterator[HostPath]:
    """The folder of this machine that its containers see."""
    folder = mesh_file().with_name("telemetry")
    yield HostPath(str(folder), "--telemetry", _REMEDY, is_made=False)


def spans_setting(
    telemetry: Telemetry | None,
    env: Mapping[str, str],
    known: Mapping[str, object] | None,
) -> dict[str, str]:
    """Where the control plane is to send spans on to: where the environment or the mesh has it,
    and to Zipkin where that is started.
    """
    has_zipkin = telemetry is not None and "zipkin" in telemetry.images
    return kept_setting(ENV_SPANS_TO, _SPANS_TO if has_zipkin else "", env, known)


def start_telemetry(
    engine: LocalEngine,
    telemetry: Telemetry,
    network: str,
    wanted: Sequence[WantedPort],
    say: Say,
    step: Say,
) -> None:
    """Start the services, of a mesh that is ready. Raises EngineError."""
    file = mesh_file().with_name("telemetry.yaml")
    said = {**settings_beside(file), **os.environ}
    containers = {_container(name) for name in telemetry.images}
    ports = choose_ports(engine, HostPorts(engine), wanted, said, containers, "")
    environment = mesh_environment() | {
        **ports.settings,
        **{variable(name): image for name, image in telemetry.images.items()},
        ENV_NETWORK: network,
    }
    parts = {name: Part(name, "") for name in containers}
    with timed(say, "telemetry is up"):
        call_compose(
            ["-f", str(file), "-p", TELEMETRY_PROJECT],
            ["up", "-d", "--no-build", *telemetry.images],
            "start telemetry",
            environment,
            on_line=ServiceSteps(parts, step),
        )
    for note in ports.notes:
        say(note)


def stop_telemetry(engine: LocalEngine, *, volumes: bool, say: Say) -> list[str]:
    """Remove the services; returns the names of what was removed."""
    found = engine.containers([f"{COMPOSE_PROJECT}={TELEMETRY_PROJECT}"])
    names = names_of(found)
    options = ["--volumes"] if volumes else []
    # What it measured outlives the containers, and goes with the mesh's other volumes.
    if not names and not (
        volumes and engine.volumes([f"{COMPOSE_PROJECT}={TELEMETRY_PROJECT}"])
    ):
        return []
    file = mesh_file().with_name("telemetry.yaml")
    with timed(say, "telemetry removed"):
        call_compose(
            ["-f", str(file), "-p", TELEMETRY_PROJECT],
            ["down", "--remove-orphans", "--timeout", "3", *options],
            "remove telemetry",
            mesh_environment(),
        )
    return names


def telemetry_urls(engine: LocalEngine) -> list[tuple[str, str]]:
    """Title and URL of each that runs, on the engine's host."""
    return [
        (port.what, f"http://127.0.0.1:{number}")
        for port in TELEMETRY_PORTS
        if (number := has_now(engine, port)) is not None
    ]


def check_telemetry(engine: LocalEngine) -> Iterator[Finding]:
    """Whether what was started runs; nothing where it never was."""
    urls = dict(telemetry_urls(engine))
    for port in TELEMETRY_PORTS:
        if port.what in urls:
            yield Finding("telemetry", Verdict.OK, f"{port.what}: {urls[port.what]}")
        elif engine.inspect(port.container) is not None:
            what = f"{port.what} does not run"
            yield Finding("telemetry", Verdict.WARNING, what, _SEE_LOGS)


def _container(name: str) -> str:
    return next(p.container for p in TELEMETRY_PORTS if p.what == _TITLES[name])
