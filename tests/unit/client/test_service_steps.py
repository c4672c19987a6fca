"""Compose's lines, told as steps of the user's services; progress on a terminal and in a pipe."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from dockermesh.cli.progress import Progress
from dockermesh.client.compose.service_steps import ServiceSteps, parts_of
from dockermesh.docker.compose import stream_compose
from dockermesh.model.contract import LABEL_ROLE, LABEL_SERVICE

LINES = """\
 Network shop_default  Created
time="2026-01-01T00:00:00Z" level=warning msg="Container shop-web-1  Started"
 Container shop-web-1-pod-1  Started
 Container shop-web-1-proxy-1  Started
 Container shop-web-1-pod-1  Waiting
 Container shop-web-1-pod-1  Healthy
 Container shop-web-1-pod-1  Healthy
 Container shop-web-1  Starting
 Container shop-web-1  Started 0.3s
 Container shop-cache-2  Started
 Container own-name  Exited
 Container somebody-elses  Started
"""


def project() -> dict[str, object]:
    def part(role: str) -> dict[str, object]:
        return {"labels": {LABEL_ROLE: role, LABEL_SERVICE: "web"}}

    services = {
        "web": {"container_name": "shop-web-1", **part("app")},
        "web-1-pod": part("pod"),
        "web-1-proxy": part("proxy"),
        "cache": {"scale": 2},
        "job": {"container_name": "own-name"},
    }
    return {"name": "shop", "services": services}


def test_each_step_of_a_service_is_told_once_under_the_users_name() -> None:
    said: list[str] = []
    steps = ServiceSteps(parts_of(project()), said.append)
    for line in LINES.splitlines():
        steps(line)
    assert said == [
        "web: its proxy starts",
        "web: proxy is ready",
        "web: started",
        "cache: started",
        "job: has done its work",
    ]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "shown"),
    [
        (io.StringIO(), "  web: started\n✔ app started\n"),
        (Terminal(), "  web: started\r\x1b[K✔ app started\n"),
    ],
)
def test_progress_is_a_line_per_step_or_in_place(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: str
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("NO_COLOR", "1")
    with Progress() as progress:
        progress.step("web: started")
        progress.say("app started")
    assert stream.getvalue().replace("\x1b[32m", "").replace("\x1b[0m", "") == shown


def test_a_dumb_terminal_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    with Progress() as progress:
        progress.step("web: started")
    assert stream.getvalue() == "  web: started\n"


@pytest.mark.parametrize("columns", ["2", "3", "4"])
def test_a_step_fits_into_the_narrowest_terminal(
    monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", columns)
    with Progress() as progress:
        progress.step("web: started")
    assert stream.getvalue() == "  w\r\x1b[K"


def test_a_step_of_several_lines_stays_and_the_last_of_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress() as progress:
        progress.step("web: failing\n    | line")
        progress.step("web: in sync")
    assert stream.getvalue() == "  web: failing\n    | line\n  web: in sync\r\x1b[K"


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.step("web: started")
        progress.say("app started")
    assert capsys.readouterr() == ("", "")


def test_compose_ends_at_its_time_limit_with_what_it_left_behind(
    tmp_path: Path,
) -> None:
    docker = tmp_path / "docker"
    docker.write_text(
        '#!/bin/sh\n[ "$2" = version ] && { echo 2.30.0; exit; }\n'
        "echo first; sleep 5 & wait\n"
    )
    docker.chmod(0o755)
    lines: list[str] = []
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    with pytest.raises(TimeoutError, match="1 s"):
        stream_compose(["up"], lines.append, env=env, timeout=1.0)
    assert lines == ["first"]


def test_a_standalone_compose_is_streamed_too(tmp_path: Path) -> None:
    for name, body in (
        ("docker", "exit 1"),
        ("docker-compose", '[ "$1" = version ] && echo 2.30.1 || echo "$@"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    status, lines = stream_compose(["up"], lambda _: None, env={"PATH": str(tmp_path)})
    assert (status, lines) == (0, ["--progress plain up"])
