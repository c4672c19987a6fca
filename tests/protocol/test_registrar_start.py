"""A control plane that was told to have a registrar is not ready without the engine."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_proxy import docker_proxy, only_reads
from patience import until
from ports import free_ports


def ready(port: int) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", "/readyz")
    answer = connection.getresponse()
    return answer.status, answer.read().decode().strip()


@pytest.fixture
def engine_path(tmp_path: Path) -> Path:
    return tmp_path / "docker.sock"


@pytest.fixture
def control_plane(tmp_path: Path, engine_path: Path) -> Iterator[int]:
    """The port of the health pages of a control plane whose registry is Docker itself."""
    ports = free_ports(3)
    addresses = zip(
        ("--xds-address", "--api-address", "--debug-address"), ports, strict=True
    )
    options = [part for name, port in addresses for part in (name, f"127.0.0.1:{port}")]
    folders = [
        "--state-dir",
        str(tmp_path / "state"),
        "--trust-dir",
        str(tmp_path / "trust"),
    ]
    command = [
        sys.executable,
        "-m",
        "dockermesh",
        "control-plane",
        "--registry",
        "docker",
    ]
    environment = os.environ | {"DOCKER_HOST": f"unix://{engine_path}"}
    running = subprocess.Popen([*command, *options, *folders], env=environment)
    yield ports[2]
    running.terminate()
    running.wait()


def test_what_is_in_the_sockets_place_is_told_until_the_engine_answers(
    control_plane: int, engine_path: Path
) -> None:
    def says(text: str) -> bool:
        code, said = ready(control_plane)
        return code == 503 and f"registrar: {engine_path} {text}" in said

    until(lambda: says("is not there; set DOCKER_SOCK"), "it misses the socket")
    engine_path.mkdir()
    until(lambda: says("is a directory; set DOCKER_SOCK"), "it sees a directory")
    engine_path.rmdir()
    engine_path.touch()
    until(lambda: says("is no socket; set DOCKER_SOCK"), "it sees a file")
    engine_path.unlink()
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(engine_path))
        until(
            lambda: "cannot talk to the Docker engine" in ready(control_plane)[1],
            "no answer",
        )
        assert "DOCKER_SOCK" not in ready(control_plane)[1]
    engine_path.unlink()


@pytest.mark.docker
async def test_it_becomes_ready_with_the_engine_and_stays_so_without_it(
    control_plane: int, engine_path: Path
) -> None:
    def answers(expected: int) -> None:
        until(lambda: ready(control_plane)[0] == expected, f"it answers {expected}")

    await asyncio.to_thread(answers, 503)

    # It sees all containers of the engine, and would heal those of the tests beside this one.
    engine = docker_proxy()
    engine.fault = only_reads
    async with engine.running(str(engine_path)):
        await asyncio.to_thread(answers, 200)

    assert await asyncio.to_thread(ready, control_plane) == (200, "ok")
