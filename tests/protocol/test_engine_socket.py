"""Where the engine's socket is on its own host, asked of a real engine."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dockermesh.client.compose.engine_socket import check_socket, socket_on_host
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError, InputError
from dockermesh.inject.images import Images

pytestmark = pytest.mark.docker
ROOT = Path(__file__).parents[2]
# The image is any that has Python and the Docker SDK; the code is the working tree's.
_FIND = (
    "import os; from dockermesh.client.compose.engine_socket import socket_on_host;"
    "from dockermesh.docker.engine import LocalEngine; print(socket_on_host(LocalEngine(), {}))"
)
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def engine() -> LocalEngine:
    engine = LocalEngine()
    if not engine.address.is_socket:
        pytest.skip("the engine is no unix socket here -> unset DOCKER_HOST")
    return engine


@pytest.fixture
def container() -> Iterator[Run]:
    """Runs containers of an image with Python, and removes them."""
    label = f"dockermesh.test={uuid.uuid4().hex}"
    image = (
        os.environ.get("DOCKERMESH_CONTROL_PLANE_IMAGE")
        or Images.from_environment({}).pod
    )
    image = image.replace("dockermesh/pod", "dockermesh/control-plane")

    def run(
        *options: str, command: tuple[str, ...]
    ) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        start = [
            "docker",
            "run",
            "--label",
            label,
            "--network",
            "none",
            "--entrypoint",
            program,
        ]
        return subprocess.run(
            [*start, *options, image, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )

    yield run
    listed = ["docker", "ps", "-aq", "--filter", f"label={label}"]
    found = subprocess.run(
        listed, capture_output=True, text=True, check=True
    ).stdout.split()
    for identity in found:
        subprocess.run(
            ["docker", "rm", "-fv", identity], capture_output=True, check=True
        )


def test_a_socket_whose_path_the_engine_has_is_the_one(engine: LocalEngine) -> None:
    assert socket_on_host(engine, {}) == engine.address.socket_path


def test_the_users_docker_sock_is_taken_when_it_is_there_and_named_when_not(
    engine: LocalEngine,
) -> None:
    assert socket_on_host(engine, {"DOCKER_SOCK": "/etc/hostname"}) == "/etc/hostname"
    absent = f"/nowhere-{uuid.uuid4().hex}/docker.sock"
    with pytest.raises(InputError, match="DOCKER_SOCK=/nowhere"):
        socket_on_host(engine, {"DOCKER_SOCK": absent})
    assert not engine.sees(absent)


@pytest.mark.parametrize("mounted", ["file", "folder"])
def test_in_a_container_of_the_engine_the_mount_tells_the_path_on_the_host(
    engine: LocalEngine, container: Run, mounted: str
) -> None:
    path = Path(engine.address.socket_path)
    source = path if mounted == "file" else path.parent
    place = "/job/x.sock" if mounted == "file" else "/job"
    inside = place if mounted == "file" else f"/job/{path.name}"
    options = [
        "-v",
        f"{source}:{place}",
        "-v",
        f"{ROOT}:/src:ro",
        "-e",
        "PYTHONPATH=/src",
    ]
    # The name of a container of its own tells nothing: the files that Docker mounts do.
    options += ["-h", "job", "-e", f"DOCKER_HOST=unix://{inside}"]
    done = container(*options, command=("python3", "-c", _FIND))
    assert done.stdout.strip() == str(path), done.stderr


@pytest.mark.parametrize(
    ("place", "fault"), [("/tmp", "is a directory"), ("/etc/hostname", "is no socket")]
)
def test_a_mount_that_is_no_socket_is_told_with_its_source_and_the_remedy(
    engine: LocalEngine, container: Run, place: str, fault: str
) -> None:
    name = f"socket-{uuid.uuid4().hex[:8]}"
    source = os.path.realpath(place)
    options = ["-d", "--name", name, "-v", f"{source}:/run/docker.sock"]
    assert container(*options, command=("sleep", "60")).returncode == 0
    with pytest.raises(EngineError, match=f"{source} {fault}") as raised:
        check_socket(engine, name, source)
    assert "DOCKER_SOCK" in raised.value.fix


def test_the_engines_own_socket_is_fine_and_another_engines_is_not(
    engine: LocalEngine, container: Run
) -> None:
    name, source = f"socket-{uuid.uuid4().hex[:8]}", engine.address.socket_path
    options = ["-d", "--name", name, "-v", f"{source}:/run/docker.sock"]
    assert container(*options, command=("sleep", "60")).returncode == 0
    check_socket(engine, name, source)

    class Other(LocalEngine):
        """The same engine under another identity, as far as it tells."""

        def identity(self) -> str:
            return "OTHER /var/lib/docker"

    with pytest.raises(EngineError, match="another engine's"):
        check_socket(Other(), name, source)
