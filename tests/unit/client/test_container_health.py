"""HEALTH of workloads that serve no port is that of their containers."""

from __future__ import annotations

from typing import Any, cast

import pytest

from dockermesh.client.compose.container_health import with_container_health
from dockermesh.docker.engine import LocalEngine


class Engine:
    """One with two containers: an app, and a gateway's pod."""

    def __init__(self, state: str, status: str) -> None:
        self._app = {"Id": "app", "State": state, "Status": status}
        self.asked = 0

    def containers(self, _: list[str]) -> list[dict[str, Any]]:
        self.asked += 1
        pod = {"Id": "pod", "State": "running", "Status": "Up 2 hours (healthy)"}
        return [self._app, pod]


def health(engine: Engine, said: str, app: str, pod: str = "") -> str:
    workload = {"health": said, "app_container": app, "pod": pod}
    (made,) = with_container_health(cast(LocalEngine, engine), [workload])
    assert workload["health"] == said
    return str(made["health"])


@pytest.mark.parametrize(
    ("state", "status", "shown"),
    [
        ("running", "Up 3 minutes", "running"),
        ("running", "Up 3 minutes (healthy)", "healthy"),
        ("running", "Up 3 minutes (unhealthy)", "unhealthy"),
        ("running", "Up 1 second (health: starting)", "starting"),
        ("exited", "Exited (137) 2 minutes ago", "exited (137)"),
        ("restarting", "Restarting (1) 2 seconds ago", "restarting"),
        ("created", "Created", "created"),
    ],
)
def test_an_app_that_serves_nothing_has_the_health_of_its_container(
    state: str, status: str, shown: str
) -> None:
    assert health(Engine(state, status), "-", "app", "pod") == shown


def test_a_gateway_has_that_of_its_pod_and_what_is_elsewhere_none() -> None:
    engine = Engine("running", "Up 1 second")
    assert health(engine, "-", "", "pod") == "healthy"
    assert health(engine, "-", "of another engine") == "-"


def test_what_serves_has_that_of_its_endpoints_and_costs_no_question() -> None:
    engine = Engine("running", "Up 1 second")
    assert health(engine, "draining", "app") == "draining"
    assert engine.asked == 0
