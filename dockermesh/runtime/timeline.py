"""Where the time of a command goes: what it did, from when to when, for `--verbose`.

There is one timeline for the process, as a command's steps run in several threads and on every
layer. Invariant: where none was begun, nothing is kept.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_START_FIELD = 22 - 3
"""Where proc(5) has the start of a process, counted from behind its name."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was done; `took` is None for what only happened. Times are in seconds since
    the process was started.
    """

    at: float
    took: float | None
    depth: int
    what: str


class Timeline:
    """Takes entries from any thread."""

    def __init__(self) -> None:
        self._start = time.monotonic() - _age_s()
        self._entries: list[Entry] = []
        self._local = threading.local()

    def entries(self) -> list[Entry]:
        """All so far, in the order of their beginnings."""
        return sorted(self._entries, key=lambda entry: (entry.at, entry.depth))

    def now(self) -> float:
        """Seconds since the process was started."""
        return time.monotonic() - self._start

    @contextmanager
    def span(self, what: str) -> Iterator[None]:
        """Keep from when to when the body ran, also when it fails."""
        at, depth = self.now(), self._depth()
        self._local.depth = depth + 1
        try:
            yield
        finally:
            self._local.depth = depth
            self._entries.append(Entry(at, self.now() - at, depth, what))

    def mark(self, what: str) -> None:
        """Keep that something happened."""
        self._entries.append(Entry(self.now(), None, self._depth(), what))

    def _depth(self) -> int:
        return int(getattr(self._local, "depth", 0))


def _age_s() -> float:
    """How long this process has been there; 0 where no /proc tells."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


# the process's own
# --------------------------------------------------------------------------------------------------

_kept: list[Timeline] = []
"""The one that takes entries, if there is one."""


def begin() -> Timeline:
    """From now on, everything goes into a new timeline."""
    _kept[:] = [Timeline()]
    return _kept[0]


def end() -> None:
    """Keep nothing any more."""
    _kept.clear()


@contextmanager
def span(what: str) -> Iterator[None]:
    """Keep from when to when the body ran, if there is a timeline."""
    if not _kept:
        yield
        return
    with _kept[0].span(what):
        yield


def mark(what: str) -> None:
    """Keep that something happened, if there is a timeline."""
    if _kept:
        _kept[0].mark(what)
