"""Compose's verbs that change something: what is told meanwhile, how long it took, and what its
failure means.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from dockermesh.client.compose.compose_failure import reason, remedy
from dockermesh.docker.compose import stream_compose
from dockermesh.errors import EngineError
from dockermesh.runtime.timeline import span

Say = Callable[[str], None]


def quiet(_: str) -> None:
    """Says nothing."""
    return


def call_compose(
    options: list[str],
    command: list[str],
    doing: str,
    env: Mapping[str, str] | None = None,
    *,
    timeout: float | None = None,
    on_line: Say = quiet,
) -> None:
    """Run a command of Compose's, whose lines are handed on as they come.

    Raises EngineError with what it complained of, TimeoutError after `timeout` seconds.
    """
    environment = dict(os.environ if env is None else env)
    with span(f"docker compose {' '.join(command)}"):
        status, lines = stream_compose(
            [*options, *command], on_line, env=environment, timeout=timeout
        )
    if status != 0:
        said = "\n".join(lines)
        raise EngineError(
            f"Compose could not {doing}: {reason(said, status)}",
            fix=remedy(said, environment),
        )


@contextmanager
def timed(say: Say, what: str) -> Iterator[None]:
    """Say that it is done, and how long it took."""
    start = time.monotonic()
    with span(what):
        yield
    say(f"{what} ({time.monotonic() - start:.1f} s)")
