"""`down`: each pod goes with what ran in it, and gateways when nothing runs any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from dockermesh.client.compose.ending import PodEnder
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.model.contract import LABEL_ROLE


def container(
    name: str, role: str, within: str = "", state: str = "running"
) -> dict[str, Any]:
    mode = f"container:{within}-id" if within else "shop_default"
    return {
        "Id": f"{name}-id",
        "Names": [f"/{name}"],
        "State": state,
        "Labels": {LABEL_ROLE: role},
        "HostConfig": {"NetworkMode": mode},
    }


def pod(name: str, *within: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [container(name, "pod"), container(f"{name}-proxy", "proxy", name), *within]


class Engine:
    """One that removes containers, but for some."""

    def __init__(self, *kept: str) -> None:
        self.gone: set[str] = set()
        self._kept = kept

    def remove_container(self, container: str) -> None:
        if container in self._kept:
            raise EngineError("device or resource busy")
        self.gone.add(container.removesuffix("-id"))


def stopped(*names: str) -> list[str]:
    return [f" Container {name}  {step}" for name in names for step in WAY]


WAY = ("Stopping", "Stopped")


def test_a_pod_is_removed_once_all_that_ran_in_it_has_stopped() -> None:
    engine = Engine()
    two = pod("web", container("app", "app", "web"), container("guest", "", "web"))
    ender = PodEnder(cast(LocalEngine, engine), two)

    with ender:
        for line in stopped("guest", "somebody-else"):
            ender(line)
        ender(" Container app  Stopping")
        waiting = set(engine.gone)
        ender(" Container app  Stopped")

    assert not waiting
    assert engine.gone == {"web", "web-proxy"}
    assert ender.has_ended_all()


def test_the_pod_of_a_job_that_is_done_is_not_waited_for() -> None:
    engine = Engine()
    job = pod("job", container("done", "app", "job", state="exited"))

    with PodEnder(cast(LocalEngine, engine), job) as ender:
        pass

    assert engine.gone == {"job", "job-proxy"}
    assert ender.has_ended_all()


def test_a_gateway_stays_until_all_apps_have_stopped() -> None:
    engine = Engine()
    project = [*pod("gateway"), *pod("web", container("app", "app", "web"))]

    with PodEnder(cast(LocalEngine, engine), project) as ender:
        ender(stopped("app")[-1])
        assert "gateway" not in engine.gone

    assert engine.gone == {"gateway", "gateway-proxy", "web", "web-proxy"}


def test_when_the_apps_do_not_stop_gateways_stay() -> None:
    engine = Engine()
    with (
        pytest.raises(EngineError),
        PodEnder(cast(LocalEngine, engine), pod("gateway")),
    ):
        raise EngineError("Compose could not stop the apps")

    assert not engine.gone


def test_what_the_engine_does_not_remove_is_left_to_compose() -> None:
    engine = Engine("web-id")
    with PodEnder(cast(LocalEngine, engine), pod("web")) as ender:
        pass

    assert engine.gone == {"web-proxy"}
    assert not ender.has_ended_all()
