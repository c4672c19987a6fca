"""The two worlds that an app is driven in: plain Compose, and the mesh.

Invariant: both bring up the same Compose file, and whoever drives the app cannot tell which of the
two it is but by what the app does.
"""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from patience import SLACK

APPS = Path(__file__).parent / "apps"
DOCKERMESH = str(Path(sys.executable).parent / "dockermesh")
AT_ONCE = 2
"""Projects that are brought up side by side: as many as a small machine has cores."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply:
    """What an HTTP request got."""

    status: int
    body: str
    location: str | None


def finish(*command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A command with its output as text, whatever it ended with."""
    return subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * SLACK,
    )


@dataclass(frozen=True, slots=True)
class App:
    """A project that runs, as its driver sees it."""

    name: str

    @property
    def project(self) -> str:
        """What Compose calls it."""
        return f"apps-{self.name.replace('_', '-')}"

    def run(self, service: str, *command: str, stdin: str = "") -> str:
        """What a command in a service's container prints, and its exit code if that is not 0."""
        done = self.compose("exec", "-T", service, *command, stdin=stdin)
        ended = f"[exit {done.returncode}]" if done.returncode else ""
        return (done.stdout.strip() + ended).strip()

    def compose(
        self, *arguments: str, stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS` as somebody in another directory calls it."""
        return finish("docker", "compose", "-p", self.project, *arguments, stdin=stdin)

    def port(self, service: str, number: int) -> str:
        """What `dockermesh port` prints, which knows both worlds."""
        asked = (DOCKERMESH, "port", "-p", self.project, service, str(number))
        return finish(*asked).stdout.strip()

    def get(
        self, port: int, path: str = "/", method: str = "GET", **headers: str
    ) -> Reply:
        """A request to a published port. Raises OSError or HTTPException if there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            body = headers.pop("body", None)
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Reply(
                response.status,
                response.read().decode(),
                response.getheader("Location"),
            )
        finally:
            connection.close()

    def until(self, holds: Callable[[], object], within_s: float = 20) -> bool:
        """Whether something came true; what raises is not true yet."""
        deadline = time.monotonic() + within_s * SLACK
        while True:
            try:
                if holds():
                    return True
            except (OSError, http.client.HTTPException):
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.2)


class World(Protocol):
    """A way to run an app."""

    def up(self, app: App) -> None: ...

    def down(self, app: App) -> None: ...


def compose_file(app: App) -> str:
    return str(APPS / app.name / "compose.yaml")


def _checked(*command: str) -> None:
    done = finish(*command)
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
        raise AssertionError(
            f"{' '.join(command)} ended with {done.returncode}\n{said}"
        )


class Plain:
    """`docker compose up`, and nothing else."""

    def up(self, app: App) -> None:
        file = compose_file(app)
        _checked("docker", "compose", "-p", app.project, "-f", file, "up", "-d")

    def down(self, app: App) -> None:
        file = compose_file(app)
        stop = ("down", "-v", "-t", "1", "--remove-orphans")
        _checked("docker", "compose", "-p", app.project, "-f", file, *stop)


class Meshed:
    """`dockermesh up`."""

    def up(self, app: App) -> None:
        file = compose_file(app)
        _checked(DOCKERMESH, "up", "-p", app.project, "-f", file, "--timeout", "300")

    def down(self, app: App) -> None:
        _checked(DOCKERMESH, "down", "-p", app.project, "-f", compose_file(app), "-v")


def side_by_side(work: Callable[[App], T], apps: Iterable[App]) -> list[T]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, apps))
