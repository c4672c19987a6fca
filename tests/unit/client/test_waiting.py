"""`up` waits for proxies; an app that runs and whose check fails is told of, and no error."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from dockermesh.client.compose import waiting
from dockermesh.client.compose.waiting import Settled, wait_synced
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import NotReadyError

NEVER = 3600.0


class Engine:
    """Answers with one container, whose state a test sets."""

    def __init__(self, **state: Any) -> None:
        self.state = {"Status": "running", "ExitCode": 0} | state

    def inspect(self, _: str) -> dict[str, Any]:
        return {
            "Id": "c1",
            "Name": "/shop-web-1",
            "State": self.state,
            "HostConfig": {"RestartPolicy": {"Name": "no"}},
        }

    def logs(self, _: str, lines: int) -> str:
        return "\n".join(f"line {n}" for n in range(lines))


class Client:
    """Reports one workload; `moments` are the health it has, one after the other."""

    def __init__(self, *moments: str, xds: str = "SYNCED") -> None:
        self._moments = list(moments)
        self._xds = xds

    def workloads(self) -> dict[str, Any]:
        health = self._moments[0] if len(self._moments) == 1 else self._moments.pop(0)
        workload = {
            "name": "shop/web-1",
            "xds": self._xds,
            "health": health,
            "app_container": "c1",
        }
        return {"workloads": [workload]}


def health(status: str, code: int = 1) -> dict[str, Any]:
    return {"Status": status, "Log": [{"ExitCode": code, "Output": "no such page\n"}]}


def wait(
    engine: Engine,
    client: Client,
    seconds: float = NEVER,
    *,
    step: Callable[[str], None] = lambda _: None,
    is_strict: bool = False,
) -> Settled:
    return wait_synced(
        cast(LocalEngine, engine),
        cast(MeshClient, client),
        "shop",
        {"shop/web-1"},
        time.monotonic() + seconds,
        step=step,
        is_strict=is_strict,
    )


def test_what_docker_calls_unhealthy_is_a_warning_at_once() -> None:
    (warning,) = wait(Engine(Health=health("unhealthy")), Client("unhealthy")).warnings
    assert "exit code 1: no such page" in warning
    assert warning.endswith("| line 4")


def test_with_require_healthy_it_is_an_error_at_once() -> None:
    with pytest.raises(NotReadyError, match="no such page"):
        wait(Engine(Health=health("unhealthy")), Client("unhealthy"), is_strict=True)


@pytest.mark.parametrize("state", [{"Health": health("starting")}, {}])
def test_a_check_that_fails_on_is_waited_for_no_longer_than_there_is_hope(
    monkeypatch: pytest.MonkeyPatch, state: dict[str, Any]
) -> None:
    monkeypatch.setattr(waiting, "_HOPE_S", 0.0)
    monkeypatch.setattr(waiting, "_UNASKED_S", 0.0)
    assert wait(Engine(**state), Client("unhealthy")).warnings


def test_a_failing_check_is_told_once_while_it_is_waited_for() -> None:
    said: list[str] = []
    engine, client = (
        Engine(Health=health("starting")),
        Client(*["unhealthy"] * 3, "healthy"),
    )
    assert wait(engine, client, step=said.append).warnings == ()
    assert ["no such page" in line for line in said] == [True, False]
    assert said[-1] == "shop/web-1: in sync"


def test_a_check_that_was_not_asked_yet_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_HOPE_S", 0.0)
    said: list[str] = []
    engine = Engine(Health={"Status": "starting", "Log": []})
    assert wait(engine, Client("unhealthy", "healthy"), step=said.append).warnings == ()
    assert said == ["shop/web-1: in sync"]


def test_at_the_deadline_a_check_is_a_warning_and_a_proxy_an_error() -> None:
    engine = Engine(Health={"Status": "starting", "Log": []})
    assert wait(engine, Client("unhealthy"), -1).warnings
    with pytest.raises(NotReadyError, match="not in sync in time"):
        wait(engine, Client("unhealthy"), -1, is_strict=True)
    with pytest.raises(NotReadyError, match="STALE"):
        wait(engine, Client("unhealthy", xds="STALE"), -1)


def test_an_app_that_ended_with_an_error_is_told_with_its_last_words() -> None:
    with pytest.raises(NotReadyError, match=r"last exit code 3\n.*line 0"):
        wait(Engine(Status="exited", ExitCode=3), Client("none"))
