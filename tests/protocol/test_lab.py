"""scripts/lab: an engine beside the machine's own, which leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

LAB = str(Path(__file__).parents[2] / "scripts/lab")
NAME = f"test-{os.getpid()}"


def lab(*arguments: str) -> str:
    done = subprocess.run(
        [LAB, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"lab {arguments}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture
def started() -> Iterator[str]:
    """The version of the engine in a lab with the installed engine's binaries."""
    if os.geteuid() or not shutil.which("dockerd"):
        pytest.skip(
            "a lab takes root and an installed dockerd -> run: sudo scripts/setup engine"
        )
    yield lab(NAME, "start")
    lab(NAME, "stop")
    assert NAME not in lab("list")
    left = [
        Path(f"/run/dockermesh-lab/{NAME}"),
        Path(f"/var/lib/dockermesh-lab/{NAME}"),
        Path(f"/run/netns/lab-{NAME}"),
    ]
    assert [path for path in left if path.exists()] == []


def test_a_lab_is_an_engine_of_its_own_in_a_namespace_of_its_own(started: str) -> None:
    assert f"{NAME} {started} {lab(NAME, 'socket')}" in lab("list").splitlines()
    assert lab(NAME, "enter", "docker", "ps", "-aq") == ""
    inside = lab(NAME, "enter", "readlink", "/proc/self/ns/net")
    assert inside != str(Path("/proc/self/ns/net").readlink())
    root = lab(NAME, "enter", "docker", "info", "-f", "{{.DockerRootDir}}")
    assert root == f"/var/lib/dockermesh-lab/{NAME}/engine"


def test_an_engine_that_ended_comes_back_with_what_it_had(started: str) -> None:
    lab(NAME, "enter", "docker", "volume", "create", "kept")
    lab(NAME, "end")
    assert f"{NAME} stopped {lab(NAME, 'socket')}" in lab("list").splitlines()
    assert lab(NAME, "resume") == started
    assert lab(NAME, "enter", "docker", "volume", "ls", "-q") == "kept"
