"""What Docker's own health check says of an app: its verdict, the check's last words, the app's.

It is read from the engine alone, so that it is there when no control plane is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.model.contract import COMPOSE_PROJECT

UNHEALTHY = "unhealthy"
_LOG_LINES = 5
_MOST_OUTPUT = 300


@dataclass(frozen=True, slots=True)
class AppHealth:
    """Docker's verdict (empty: it has none); exit code and output of the check's last run."""

    status: str = ""
    exit_code: int = 0
    output: str = ""

    @property
    def is_failing(self) -> bool:
        """Whether the last run of the check failed, whatever that is worth yet."""
        return self.status == UNHEALTHY or (
            self.status == "starting" and self.exit_code != 0
        )


NO_CHECK = AppHealth()


def health_of(inspect: Mapping[str, Any]) -> AppHealth:
    """What `docker inspect` says of a container's health check."""
    health = inspect["State"].get("Health") or {}
    runs = health.get("Log") or [{}]
    status = str(health.get("Status") or "")
    output = " ".join(str(runs[-1].get("Output") or "").split())
    return AppHealth(
        "" if status == "none" else status,
        int(runs[-1].get("ExitCode") or 0),
        output[:_MOST_OUTPUT],
    )


def why_unhealthy(health: AppHealth) -> str:
    """What the check said last."""
    said = health.output or "no output"
    return f"its health check failed with exit code {health.exit_code}: {said}"


def last_lines(engine: LocalEngine, container: str) -> list[str]:
    """What a container wrote last, for below a message; nothing where its log cannot be read."""
    lines: list[str] = []
    with suppress(EngineError):
        lines = engine.logs(container, _LOG_LINES).splitlines()
    return [f"    | {line}" for line in lines if line.strip()]


def unhealthy_apps(engine: LocalEngine, project: str) -> Iterator[str]:
    """What is known of each container of a project that Docker calls unhealthy."""
    for container in engine.containers([f"{COMPOSE_PROJECT}={project}"]):
        if UNHEALTHY in str(container.get("Status")):
            found = engine.inspect(container["Id"])
            if found is not None:
                name = found["Name"].lstrip("/")
                why = f"{name} is unhealthy: {why_unhealthy(health_of(found))}"
                yield "\n".join([why, *last_lines(engine, found["Id"])])
