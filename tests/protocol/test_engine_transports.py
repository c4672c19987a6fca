"""One engine by every way that Docker knows: socket, context, TCP, TLS and ssh."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_rig import SshHost, make_certificates, need_sshd, relay, ssh_host

from dockermesh.docker.address import resolve_engine
from dockermesh.docker.async_engine import DockerEngine
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.inject.images import Images

pytestmark = pytest.mark.docker
LARGE = 3_000_000
_WRITES = f"""
print STDERR "to stderr\\n"; print "x" x {LARGE}; print STDERR "end"; exit 7
"""


@pytest.fixture(scope="module")
def engine_socket() -> str:
    path = resolve_engine().socket_path
    if not path:
        pytest.skip("the engine is no unix socket here -> unset DOCKER_HOST")
    return path


@pytest.fixture(scope="module")
def container(engine_socket: str) -> Iterator[str]:
    name = f"transport-{uuid.uuid4().hex[:8]}"
    image = Images.from_environment(os.environ).pod
    command = [
        "docker",
        "run",
        "-d",
        "--name",
        name,
        "--network",
        "none",
        "--entrypoint",
        "sleep",
    ]
    subprocess.run([*command, image, "infinity"], check=True, capture_output=True)
    yield name
    subprocess.run(["docker", "rm", "-f", name], check=True, capture_output=True)


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in (
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    # What other programs of the user heed must not lead astray what talks to the engine.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return monkeypatch


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("tls") / "client")


@pytest.fixture
def remote(
    engine_socket: str, tmp_path: Path, clean: pytest.MonkeyPatch
) -> Iterator[SshHost]:
    need_sshd()
    with ssh_host(tmp_path / "ssh", engine_socket) as host:
        clean.setenv("PATH", f"{host.folder}:{os.environ['PATH']}")
        clean.setenv("DOCKER_HOST", "ssh://engine-host")
        yield host


def runs_commands(container: str) -> None:
    """A command's two streams and its exit code come back whole, large ones and very short ones."""
    engine = LocalEngine()
    code, out, error = engine.execute(container, ["perl", "-e", _WRITES])
    assert (code, len(out), error) == (7, LARGE, b"to stderr\nend")
    for _ in range(10):
        assert engine.execute(container, ["echo", "hi"]) == (0, b"hi\n", b"")


def agrees_with_docker() -> None:
    """The Docker CLI, and with it Compose, talks to the same engine."""
    said = subprocess.run(
        ["docker", "info", "--format", "{{.ID}}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert LocalEngine().info()["ID"] == said.stdout.strip()


def test_commands_run_over_a_unix_socket(container: str) -> None:
    runs_commands(container)


def test_commands_run_over_tcp(
    container: str, engine_socket: str, clean: pytest.MonkeyPatch
) -> None:
    with relay(engine_socket) as port:
        clean.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        runs_commands(container)
        agrees_with_docker()


def test_commands_run_over_tls_with_the_engines_own_ca(
    container: str, engine_socket: str, clean: pytest.MonkeyPatch, certificates: Path
) -> None:
    with relay(engine_socket, certificates) as port:
        clean.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
        clean.setenv("DOCKER_TLS_VERIFY", "1")
        clean.setenv("DOCKER_CERT_PATH", str(certificates))
        runs_commands(container)
        agrees_with_docker()


def test_a_context_brings_its_tls_and_another_ca_is_refused(
    engine_socket: str, clean: pytest.MonkeyPatch, certificates: Path, tmp_path: Path
) -> None:
    other = make_certificates(tmp_path / "other")
    with relay(engine_socket, certificates) as port:
        for name, ca, skip in (
            ("good", certificates, ""),
            ("bad", other, ""),
            ("any", other, "1"),
        ):
            files = f"ca={ca}/ca.pem,cert={certificates}/cert.pem,key={certificates}/key.pem"
            host = f"host=tcp://127.0.0.1:{port},{files}{',skip-tls-verify=true' if skip else ''}"
            create = ["docker", "context", "create", name, "--docker", host]
            subprocess.run(create, check=True, capture_output=True)
        for name in ("good", "any"):
            clean.setenv("DOCKER_CONTEXT", name)
            agrees_with_docker()
        clean.setenv("DOCKER_CONTEXT", "bad")
        with pytest.raises(EngineError, match="CERTIFICATE_VERIFY_FAILED"):
            LocalEngine()


def test_the_current_context_is_followed(
    engine_socket: str, clean: pytest.MonkeyPatch
) -> None:
    with relay(engine_socket) as port:
        host = f"host=tcp://127.0.0.1:{port}"
        for command in (["create", "vm", "--docker", host], ["use", "vm"]):
            subprocess.run(
                ["docker", "context", *command], check=True, capture_output=True
            )
        assert LocalEngine().address.url == f"tcp://127.0.0.1:{port}"
        assert resolve_engine().source == "context vm"
        agrees_with_docker()


def test_commands_run_over_ssh_by_the_users_own_client(
    container: str, remote: SshHost
) -> None:
    runs_commands(container)
    agrees_with_docker()


def test_calls_over_ssh_share_connections(remote: SshHost) -> None:
    engine = LocalEngine()
    for _ in range(10):
        engine.containers()
    assert remote.connections() == 1


async def test_the_registrars_calls_and_events_come_over_ssh(
    container: str, remote: SshHost
) -> None:
    engine = DockerEngine()
    names = {name for c in await engine.list_containers() for name in c["Names"]}
    assert f"/{container}" in names
    events = await engine.subscribe()
    await engine.restart(container, 0)
    event = await anext(aiter(events))
    assert event.container
    await events.close()
    await engine.close()


def test_what_ssh_says_is_in_the_error(
    remote: SshHost, clean: pytest.MonkeyPatch
) -> None:
    clean.setenv("DOCKER_HOST", "ssh://nobody@engine-host")
    with pytest.raises(EngineError, match=r"ssh: .*Permission denied"):
        LocalEngine()


def test_looking_for_a_path_on_the_engines_host_makes_nothing(
    engine_socket: str,
) -> None:
    engine = LocalEngine()
    absent = f"/nowhere-{uuid.uuid4().hex}/x.sock"

    assert engine.sees("/etc")
    assert not engine.sees(absent)
    assert not engine.sees(absent)

    # Other tests may run on this engine: what counts is what has to do with the path.
    assert absent not in json.dumps(engine.containers())
    assert not Path(absent).parent.exists()
