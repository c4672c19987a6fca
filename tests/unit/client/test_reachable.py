"""Where nothing answers, downloads fail in seconds; where something does, they may take long."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from dockermesh.client.images import reachable
from dockermesh.client.images.reachable import answers


@pytest.fixture
def listening() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_one_that_answers_is_enough(listening: str, closed: str) -> None:
    assert answers([closed, listening], {})
    assert not answers([closed], {})


def test_what_is_on_this_machine_is_not_waited_for(closed: str) -> None:
    assert answers(["file:///opt/pypi/simple"], {})
    assert not answers(["file:///opt/pypi/simple", closed], {})
    assert answers([], {})


def test_a_proxy_is_asked_in_place_of_what_is_behind_it(
    listening: str, closed: str
) -> None:
    behind = "http://pypi.invalid/simple"
    assert answers([behind], {"http_proxy": listening})
    assert answers([behind], {}, proxy=listening.removeprefix("http://"))
    assert not answers([listening], {"HTTP_PROXY": closed})
    assert answers([listening], {"HTTP_PROXY": closed, "no_proxy": "127.0.0.1"})


def test_a_name_that_nobody_resolves_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reachable, "PATIENCE_S", 0.05)
    monkeypatch.setattr(
        reachable,
        "_connects",
        lambda *_: socket.create_server(("127.0.0.1", 0)).accept(),
    )
    assert not answers(["https://pypi.invalid"], {})


def test_it_runs_by_itself(listening: str, closed: str) -> None:
    for url, status in ((listening, 0), (closed, 1)):
        command = [sys.executable, "-I", reachable.__file__, url]
        assert subprocess.run(command, check=False).returncode == status
