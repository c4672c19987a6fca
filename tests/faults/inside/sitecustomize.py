"""What the suite adds to a Python process that it starts: where it stands, on SIGUSR2, and a clock
that can be set.

SIGUSR2 writes the stacks of all threads and tasks to stderr, for a process that seems to hang. The
file named by FAULTS_CLOCK holds the seconds by which the time of day is wrong, and is read at every
look at the clock: the kernel's belongs to the whole machine, so it is set for one process alone.
"""

from __future__ import annotations

import datetime
import faulthandler
import os
import signal
import sys
import time
from types import FrameType

_FILE = os.environ.get("FAULTS_CLOCK", "")
_real = time.time


def _shift() -> float:
    try:
        with open(_FILE, encoding="ascii") as file:  # noqa: PTH123  # pathlib reads the clock
            return float(file.read() or 0)
    except (OSError, ValueError):
        return 0.0


class _Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:  # type: ignore[override]
        return datetime.datetime.fromtimestamp(_real() + _shift(), tz)


def _tell_tasks(_signal: int, _frame: FrameType | None) -> None:
    # Where the loop itself hangs in C, this never runs, and the threads' stacks tell it.
    import asyncio

    for task in asyncio.all_tasks(asyncio.get_running_loop()):
        task.print_stack(limit=4, file=sys.stderr)


if _FILE:
    time.time = lambda: _real() + _shift()
    datetime.datetime = _Shifted  # type: ignore[misc]

signal.signal(signal.SIGUSR2, _tell_tasks)
faulthandler.register(signal.SIGUSR2, chain=True)
