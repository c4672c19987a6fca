"""Which engine's socket the registrar is given."""

from __future__ import annotations

import pytest

from dockermesh.app.bring_up import mesh_environment


@pytest.mark.parametrize(
    ("engine", "socket"),
    [
        ("unix:///run/user/1000/docker.sock", "/run/user/1000/docker.sock"),
        ("unix:///home/ann/.docker/desktop/docker.sock", None),
        ("tcp://10.0.0.1:2376", None),
        ("", None),
    ],
    ids=["rootless", "desktop", "remote", "default"],
)
def test_the_registrar_gets_the_socket_of_the_engine_in_use(
    engine: str, socket: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DOCKER_SOCK", raising=False)
    monkeypatch.setenv("DOCKER_HOST", engine)
    assert mesh_environment().get("DOCKER_SOCK") == socket


def test_a_socket_that_the_user_names_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    monkeypatch.setenv("DOCKER_SOCK", "/run/filtered.sock")
    assert mesh_environment()["DOCKER_SOCK"] == "/run/filtered.sock"
