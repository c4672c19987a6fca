"""F13: Docker's daemon restarts, and the whole mesh heals without a hand (last of all: it stops
every container).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from load import Load
from mesh_rig import APPS, LEARNS_S, ROOT, Mesh, answers, docker, pid, run
from patience import SLACK, until

pytestmark = pytest.mark.docker


@pytest.fixture
def disposable_engine() -> None:
    """An engine that nobody but the tests uses: our own process, or a CI machine's."""
    if Path("/run/systemd/system").is_dir() and not os.environ.get("CI"):
        pytest.skip(
            "this would restart Docker on somebody's machine; CI=true allows it"
        )


def test_the_mesh_heals_after_a_restart_of_the_daemon(
    disposable_engine: None, mesh: Mesh, measured: Callable[[str, float], None]
) -> None:
    versions = {f"bookinfo/{app}-1" for app in APPS}
    before = pid("bookinfo-reviews-v1-1")
    with Load(inside="", urls=()) as load:  # who calls from inside ends with the engine
        load.warmed()
        stopping = time.monotonic()
        run("timeout", str(60 * SLACK), str(ROOT / "scripts/engine"), "restart")
        back = time.monotonic()
        mesh.until_synced(30)
        healed = time.monotonic()
        measured("after a restart of the engine the mesh is in sync in", healed - back)
        until(
            lambda: [s for s in load.since(back) if not s.error and not s.impatient],
            "pages again",
            20,
        )
        served = time.monotonic()
        load.settle(30)
    assert pid("bookinfo-reviews-v1-1") != before, "the engine was not restarted"
    assert load.failures([(stopping - 1, served + LEARNS_S)]) == [], load.report()
    until(
        lambda: {w["name"] for w in mesh.workloads()} >= versions,
        "all workloads are listed",
    )
    until(lambda: answers("http://127.0.0.1:30080/productpage"), "the page is served")
    assert_everybody_is_in_place()


def test_pods_restart_as_ever_after_a_restart_of_the_daemon(
    disposable_engine: None, mesh: Mesh
) -> None:
    """An engine that once failed to start a proxy dropped the volume that it shares."""
    pods = [f"bookinfo-{app}-1-pod-1" for app in APPS]
    docker("restart", "-t", "3", *pods)
    mesh.until_synced(60)
    until(lambda: answers("http://127.0.0.1:30080/productpage"), "the page is served")
    assert_everybody_is_in_place()


def test_the_mesh_heals_after_the_daemon_was_killed(
    disposable_engine: None, mesh: Mesh, measured: Callable[[str, float], None]
) -> None:
    """It takes what it finds at its next start for stopped by hand."""
    run(str(ROOT / "scripts/engine"), "crash")
    run("timeout", str(60 * SLACK), str(ROOT / "scripts/engine"), "start")
    back = time.monotonic()
    mesh.until_synced(60)
    until(lambda: answers("http://127.0.0.1:30080/productpage"), "the page is served")
    measured("after a crash of the engine pages are served in", time.monotonic() - back)
    until(lambda: not exited(), "every container runs", 30)
    assert_everybody_is_in_place()


def assert_everybody_is_in_place() -> None:
    """All of it runs, and nobody is left in a namespace that is gone."""
    for app in APPS:
        names = (
            f"bookinfo-{app}-1",
            f"bookinfo-{app}-1-proxy-1",
            f"bookinfo-{app}-1-pod-1",
        )
        namespaces = {Path(f"/proc/{pid(name)}/ns/net").readlink() for name in names}
        assert len(namespaces) == 1, names
    assert exited() == ""


def exited() -> str:
    """The project's containers that do not run."""
    project = "label=com.docker.compose.project=bookinfo"
    return docker("ps", "-q", "--filter", project, "--filter", "status=exited")
