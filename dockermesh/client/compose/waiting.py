"""`up` waits: for the control plane, and until every proxy of the project has its configuration.

Invariant: what cannot mend itself ends the wait at once, with what is known of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.client.mesh.route import SEE_LOGS
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import NotReadyError
from dockermesh.inject.options import Injection
from dockermesh.model.contract import (
    CONTROL_PLANE_CONTAINER,
    LABEL_ROLE,
    LABEL_WORKLOAD,
)
from dockermesh.model.setup import SET_DOCKER_SOCK

_POLL_S = 0.1
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
    services = injection.project["services"].values()
    labels = [service.get("labels") or {} for service in services]
    return {str(of[LABEL_WORKLOAD]) for of in labels if of.get(LABEL_ROLE) == "pod"}


def wait_synced(
    engine: LocalEngine,
    client: MeshClient,
    project: str,
    expected: set[str],
    deadline: float,
) -> list[dict[str, Any]]:
    """What the control plane says of the workloads, once all are in sync and their endpoints used.

    Raises NotReadyError at the deadline, or as soon as an app has failed for good.
    """
    while True:
        progress = _Progress(engine, client, expected)
        if not progress.late:
            return list(progress.ours.values())

        failed = progress.failed
        if failed or time.monotonic() > deadline:
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


class _Progress:
    """How far the expected workloads are, at one moment."""

    def __init__(
        self, engine: LocalEngine, client: MeshClient, expected: set[str]
    ) -> None:
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

    def describe(self, name: str) -> str:
        """Why a workload is late, in a line."""
        workload, app = self.ours.get(name), self.apps.get(name)
        if workload is None or app is None:
            return f"{name}: not attested by the registrar"

        said = f"{name}: {workload['xds']}, endpoint {workload['health']}"
        if app.status in {"", "running"}:
            return said
        return f"{said}; {app.name} is {app.status}, its last exit code {app.exit_code}"

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
    return _AppState(found["Name"].lstrip("/"), state["Status"], code, has_ended)
