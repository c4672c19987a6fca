"""`up` waits: for the control plane, and until every proxy of the project has its configuration.

Invariant: what cannot mend itself ends the wait at once, with what is known of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.client.compose.app_health import (
    NO_CHECK,
    UNHEALTHY,
    AppHealth,
    health_of,
    last_lines,
    why_unhealthy,
)
from dockermesh.client.compose.compose_call import Say, quiet
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.client.mesh.route import SEE_LOGS
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import NotReadyError
from dockermesh.inject.options import Injection
from dockermesh.inject.profiles import started
from dockermesh.model.contract import (
    CONTROL_PLANE_CONTAINER,
    LABEL_ROLE,
    LABEL_WORKLOAD,
)
from dockermesh.model.setup import SET_DOCKER_SOCK

_POLL_S = 0.1
_HOPE_S = 15.0
"""How long a check may fail before nobody waits for it any more, though Docker still does."""
_UNASKED_S = 30.0
"""The same for a check that the mesh asks, every 10 s where nothing else is said."""
_SERVES = frozenset({"healthy", "-"})
"""An endpoint that is used; a gateway has none."""


def wait_ready(client: MeshClient, deadline: float) -> None:
    """Return when the control plane serves. Raises NotReadyError at the deadline, or at once where
    the engine's socket is not what it was told to be.
    """
    missing = client.readiness()
    while missing:
        if time.monotonic() > deadline or SET_DOCKER_SOCK in missing:
            raise not_ready(missing)
        time.sleep(_POLL_S)
        missing = client.readiness()


def not_ready(missing: str) -> NotReadyError:
    """The error for a control plane that still waits for something."""
    return NotReadyError(
        f"the control plane did not become ready: {missing}",
        where=CONTROL_PLANE_CONTAINER,
        fix=f"{SEE_LOGS}; `dockermesh down` removes what was started",
    )


def expected_workloads(injection: Injection) -> set[str]:
    """The workloads that the injected project's pods stand for."""
    services = started(injection.project).values()
    labels = [service.get("labels") or {} for service in services]
    return {str(of[LABEL_WORKLOAD]) for of in labels if of.get(LABEL_ROLE) == "pod"}


@dataclass(frozen=True, slots=True)
class Settled:
    """What there is after the wait: the control plane's word on the workloads, and what is to be
    said of apps that run, and whose checks fail.
    """

    workloads: list[dict[str, Any]]
    warnings: tuple[str, ...] = ()


def wait_synced(
    engine: LocalEngine,
    client: MeshClient,
    project: str,
    expected: set[str],
    deadline: float,
    *,
    step: Say = quiet,
    is_strict: bool = False,
) -> Settled:
    """Return once all workloads are in sync and their endpoints used.

    An app whose check fails is told of at once, and then waited for no longer than its check gives
    hope: Compose would not wait for it at all. With `is_strict` it is an error instead.

    Raises NotReadyError at the deadline, or as soon as an app has failed for good.
    """
    failing = _Failing(step)
    told: set[str] = set()
    while True:
        progress = _Progress(engine, client, expected)
        failing.look_at(progress)
        _tell_synced(progress, told, step)
        if not progress.late:
            return Settled(list(progress.ours.values()))

        is_over = time.monotonic() > deadline
        hopeless = progress.unhealthy if is_over else failing.hopeless
        if not is_strict and progress.late <= hopeless:
            warnings = tuple(progress.describe(n) for n in sorted(progress.late))
            return Settled(list(progress.ours.values()), warnings)

        failed = progress.failed | (failing.decided if is_strict else set())
        if failed or is_over:
            head = "apps have failed:" if failed else "not in sync in time:"
            lines = [
                progress.describe(name) for name in sorted(failed or progress.late)
            ]
            raise NotReadyError(
                "\n  ".join([head, *lines]),
                where=project,
                fix="see `dockermesh ps`, and the logs of these apps and their pods",
            )

        time.sleep(_POLL_S)


def _tell_synced(progress: _Progress, told: set[str], step: Say) -> None:
    """Tell of each workload that was waited for when it is there."""
    for name in sorted((told - progress.late) & set(progress.ours)):
        step(f"{name}: in sync")
        told.discard(name)
    told |= progress.late


class _Failing:
    """Apps that run, in sync, and whose checks fail: since when."""

    def __init__(self, step: Say) -> None:
        self._step = step
        self._since: dict[str, float] = {}
        self.decided: set[str] = set()
        """Those that Docker calls unhealthy."""
        self.hopeless: set[str] = set()
        """Those, and who failed for so long that nobody needs to wait for the verdict."""

    def look_at(self, progress: _Progress) -> None:
        """Take in one moment, and tell what is new."""
        now = time.monotonic()
        late = set()
        for name in sorted(progress.unhealthy):
            health = progress.apps[name].health
            if not health.is_failing and health.status:
                continue  # Docker is still to ask: within the time that the file gives it.
            if health.is_failing and name not in self._since:
                self._step(progress.describe(name))

            since = self._since.setdefault(name, now)
            if health.status == UNHEALTHY:
                self.decided.add(name)
            if now > since + (_HOPE_S if health.status else _UNASKED_S):
                late.add(name)

        self.hopeless = (self.decided | late) & progress.unhealthy


class _Progress:
    """How far the expected workloads are, at one moment."""

    def __init__(
        self, engine: LocalEngine, client: MeshClient, expected: set[str]
    ) -> None:
        self._engine = engine
        reported = client.workloads()["workloads"]
        self.ours: dict[str, dict[str, Any]] = {
            w["name"]: w for w in reported if w["name"] in expected
        }
        late = expected - {name for name, w in self.ours.items() if _is_served(w)}

        # Asked only of those that are late: each is a call to the engine.
        self.apps = {
            name: _app_state(engine, self.ours[name]) for name in late & set(self.ours)
        }
        self.late = {name for name in late if not self._has_done_its_work(name)}

    @property
    def failed(self) -> set[str]:
        """Those whose app ended with an error, and is not started again."""
        return {
            name
            for name in self.late
            if name in self.apps and self.apps[name].has_failed
        }

    @property
    def unhealthy(self) -> set[str]:
        """Those that run, in sync, and lack nothing but that their checks pass."""
        return {
            name
            for name in self.late & set(self.apps)
            if self.ours[name]["xds"] == "SYNCED"
            and self.ours[name]["health"] == UNHEALTHY
            and self.apps[name].status == "running"
        }

    def describe(self, name: str) -> str:
        """Why a workload is late, and what its app and the check of it said last."""
        workload, app = self.ours.get(name), self.apps.get(name)
        if workload is None or app is None:
            return f"{name}: not attested by the registrar"

        said = f"{name}: {workload['xds']}, endpoint {workload['health']}"
        # Docker calls unhealthy what has ended, too.
        if app.status not in {"", "running"}:
            said += f"; {app.name} is {app.status}, its last exit code {app.exit_code}"
        elif app.health.is_failing:
            said += f"; {why_unhealthy(app.health)}"
        elif workload["health"] == UNHEALTHY and not app.health.status:
            said += "; its SERVICE_CHECK_* does not pass"
        else:
            return said
        return "\n".join([said, *last_lines(self._engine, app.name)])

    def _has_done_its_work(self, name: str) -> bool:
        # A job, or an old container for volumes: it needs no endpoint any more.
        app = self.apps.get(name)
        is_synced = name in self.ours and self.ours[name]["xds"] == "SYNCED"
        return app is not None and is_synced and app.has_ended and not app.has_failed


@dataclass(frozen=True, slots=True)
class _AppState:
    """What became of an app's container. It has ended if Docker will not start it again."""

    name: str = ""
    status: str = ""
    exit_code: int = 0
    has_ended: bool = False
    health: AppHealth = NO_CHECK

    @property
    def has_failed(self) -> bool:
        """Whether it has ended with an error."""
        return self.has_ended and self.exit_code != 0


def _is_served(workload: Mapping[str, Any]) -> bool:
    return workload["xds"] == "SYNCED" and workload["health"] in _SERVES


def _app_state(engine: LocalEngine, workload: Mapping[str, Any]) -> _AppState:
    found = (
        engine.inspect(workload["app_container"]) if workload["app_container"] else None
    )
    if found is None:
        return _AppState()

    state = found["State"]
    policy = (found["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no"
    code = int(state.get("ExitCode") or 0)

    # With any other policy Docker starts it again.
    is_final = policy == "no" or (policy == "on-failure" and code == 0)
    has_ended = state["Status"] == "exited" and is_final
    return _AppState(
        found["Name"].lstrip("/"), state["Status"], code, has_ended, health_of(found)
    )
