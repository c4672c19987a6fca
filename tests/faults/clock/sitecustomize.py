"""Gives a Python process a clock that can be set: the file named by FAULTS_CLOCK holds the seconds
by which its time of day is wrong, and is read at every look at the clock.

The kernel's clock belongs to the whole machine, so it is set here, for one process alone.
"""

from __future__ import annotations

import datetime
import os
import time

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


if _FILE:
    time.time = lambda: _real() + _shift()
    datetime.datetime = _Shifted  # type: ignore[misc]
