"""What a container wrote, line by line with the time at which the engine got each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests

from dockermesh.docker.connection import ENGINE_FAILURES
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.frames import frames
from dockermesh.errors import EngineError

_CONTINUED = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) ")
"""What the engine puts before each part of a long line, of which it keeps 16 KiB at a time."""
_LONGEST_LINE = 1 << 20
"""A longer one is given in parts: an app may write for ever without an end of line."""


@dataclass(frozen=True, slots=True)
class Stamped:
    """A line, and the engine's time for it (RFC 3339, with nanoseconds)."""

    time: str
    text: str


def container_lines(
    engine: LocalEngine,
    container: str,
    *,
    since: str = "",
    tail: str = "all",
    follow: bool = False,
) -> Iterator[Stamped]:
    """The lines of a container; `since` is a Unix time with a fraction, `follow` waits for more
    while the container runs. Raises EngineError.
    """
    api = engine.sdk
    found = engine.inspect(container)
    if found is None:
        return
    is_terminal = bool((found.get("Config") or {}).get("Tty"))
    order = {
        "stdout": 1,
        "stderr": 1,
        "timestamps": 1,
        "tail": tail,
        "follow": int(follow),
        **({"since": since} if since else {}),
    }
    url = f"{api.base_url}/v{api.api_version}/containers/{container}/logs"

    try:
        # Apps may be silent for as long as they like.
        timeout = None if follow else 60
        with api.get(url, params=order, stream=True, timeout=timeout) as answer:
            if answer.status_code == requests.codes.not_found:
                return
            if answer.status_code >= requests.codes.bad_request:
                raise EngineError(
                    f"the engine has no logs of it: {answer.text.strip()[:300]}",
                    where=container[:12],
                    fix="logging drivers other than json-file, local and journald cannot be read",
                )
            yield from _lines(_plain(answer) if is_terminal else frames(answer))
    except ENGINE_FAILURES as error:
        raise EngineError(
            f"the engine failed: {error}", where=container[:12]
        ) from error


def _plain(answer: Any) -> Iterator[tuple[int, bytes]]:
    for part in answer.iter_content(None):
        yield 1, part


def _lines(parts: Iterator[tuple[int, bytes]]) -> Iterator[Stamped]:
    # A part may end within a line, and the other stream's come in between.
    begun: dict[int, bytes] = {}
    for stream, part in parts:
        before = begun.get(stream, b"")
        stamp = _CONTINUED.match(part) if before else None
        *whole, rest = (before + part[stamp.end() if stamp else 0 :]).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            whole, rest = [*whole, rest], b""
        begun[stream] = rest
        yield from map(_stamped, whole)
    yield from (_stamped(rest) for rest in begun.values() if rest)


def _stamped(line: bytes) -> Stamped:
    time, _, text = line.decode("utf-8", "replace").partition(" ")
    return Stamped(time, text.rstrip("\r"))
