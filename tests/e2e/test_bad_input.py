"""What is wrong is said once, with the fix, and leaves nothing that `dockermesh down` does not
remove.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mesh_rig import CONTROL_PLANE, DOCKERMESH, Mesh, leftovers, run, send

pytestmark = pytest.mark.docker


def refused(done: subprocess.CompletedProcess[str], *words: str) -> str:
    """One message with a fix, no traceback, and an exit status that is not 0."""
    assert done.returncode in {1, 2}, f"ended with {done.returncode}: {done.stderr}"
    assert done.stderr.count("Error:") == 1, done.stderr
    assert "->" in done.stderr, f"no fix: {done.stderr}"
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is missing in: {done.stderr}"
    return done.stderr


def test_no_compose_file(mesh: Mesh, tmp_path: Path) -> None:
    refused(mesh.command("up", cwd=tmp_path), "no compose file", "-f FILE")
    refused(mesh.command("up", "-f", str(tmp_path / "nowhere.yaml")), "nowhere.yaml")


def test_invalid_yaml(mesh: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text("name: broken\nservices:\n  app: {image: [\n")
    refused(mesh.command("up", "-f", str(file)), "compose.yaml")
    assert leftovers("broken") == []


def test_unknown_service_in_gateway_port(mesh: Mesh, small: Callable[..., str]) -> None:
    refused(
        mesh.command("up", "-f", small("wrongport"), "--gateway-port", "nosuch:30088"),
        "nosuch",
    )
    assert leftovers("wrongport") == []


def test_the_gateways_port_is_taken(mesh: Mesh, small: Callable[..., str]) -> None:
    # By bookinfo's gateway: the first project has it.
    refused(
        mesh.command("up", "-f", small("second", published=30080)),
        "30080",
        "--gateway-port",
    )
    assert leftovers("second") == []


def test_no_engine(mesh: Mesh, small: Callable[..., str]) -> None:
    env = mesh.environment(DOCKER_HOST="unix:///nonexistent")
    refused(
        mesh.command("up", "-f", small("noengine"), env=env),
        "Docker engine",
        "DOCKER_HOST",
    )


def test_only_compose_version_1(
    mesh: Mesh, small: Callable[..., str], tmp_path: Path
) -> None:
    fake = tmp_path / "bin"
    fake.mkdir()
    for name, text in (("docker-compose", "echo 1.29.2"), ("docker", "exit 1")):
        (fake / name).write_text(f"#!/bin/sh\n{text}\n")
        (fake / name).chmod(0o755)
    env = mesh.environment(PATH=f"{fake}{os.pathsep}/usr/bin-not-there")
    refused(
        mesh.command("up", "-f", small("oldcompose"), env=env), "1.29", "Compose v2"
    )


def test_an_image_that_cannot_be_had(mesh: Mesh, tmp_path: Path) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        "name: noimage\nservices:\n  app: {image: 'localhost:1/no/such:image', expose: ['80']}\n"
    )
    try:
        refused(mesh.command("up", "-f", str(file), "--timeout", "300"), "image")
    finally:
        mesh.down("noimage")


def test_a_control_plane_that_does_not_come_up(
    mesh: Mesh, measured: Callable[[str, float], None], small: Callable[..., str]
) -> None:
    file = small("tooslow")
    send(CONTROL_PLANE, signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = mesh.command("up", "-f", file, "--timeout", "5")
        measured(
            "`up --timeout 5` gives up on the control plane within",
            time.monotonic() - began,
        )
    finally:
        send(CONTROL_PLANE, signal.SIGCONT)
    try:
        refused(done, "control plane", "docker logs")
    finally:
        mesh.down("tooslow")


def test_down_of_what_is_not_there(mesh: Mesh) -> None:
    done = run(DOCKERMESH, "down", "-p", "never-was", env=mesh.environment())
    assert "not running" in done.stderr


# A job's image has often ports: it is the app's. This one is never healthy, so that it is waited
# for until it ends.
JOB = """
  job:
    image: bookinfo-details-v1
    entrypoint: [sh, -c, "sleep 1; exit {code}"]
    healthcheck: {{test: [CMD, "false"], interval: 10m}}
"""


def test_a_job_that_has_done_its_work_is_no_failure_and_one_that_failed_is_told(
    mesh: Mesh, small: Callable[..., str]
) -> None:
    try:
        mesh.up(small("jobs", body=JOB.format(code=0)))
        said = refused(
            mesh.command("up", "-f", small("jobs", body=JOB.format(code=3))),
            "jobs-job-1",
            "exit code 3",
        )
        assert "jobs/shop-1" not in said, "the others are well"
    finally:
        mesh.down("jobs")
