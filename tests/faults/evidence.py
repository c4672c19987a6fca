"""What tells a fault of the mesh from one of the machine: how it stood with the processes, and with
the suite itself, when an expectation was violated.

Where other work takes the machine away, or ends what the suite started, everything seems stuck at
once: requests, proxies and control planes. That has to be seen in the report, not guessed at.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_TICK_S = 0.25
_LATE_S = 2.0
_DUMP_S = 2.0


class Heartbeat:
    """Notices when the suite's own loop does not get its turn."""

    def __init__(self) -> None:
        self._late: list[tuple[float, float]] = []
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    def since(self, moment: float) -> str:
        """What is to be said of the time since then; empty if nothing is."""
        late = [seconds for end, seconds in self._late if end >= moment]
        if not late:
            return ""
        return (
            f"the suite itself stood still {len(late)} times, for {sum(late):.0f} s in"
            f" all and {max(late):.0f} s at most"
        )

    async def _run(self) -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(_TICK_S)
            now = time.monotonic()
            if now - begun - _TICK_S > _LATE_S:
                self._late.append((now, now - begun - _TICK_S))


def state_of(pid: int) -> str:
    """How a process is: a letter of `ps`, or `gone`."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def not_well(processes: Mapping[str, int | None]) -> list[str]:
    """Those of the processes that ended, hang in the kernel, or are stopped."""
    states = {name: state_of(pid) for name, pid in processes.items() if pid is not None}
    return [f"{name}: {state}" for name, state in states.items() if state not in "SR"]


def of_machine() -> str:
    """Load, free memory, and how long work had to wait for what."""
    told = [f"load {Path('/proc/loadavg').read_text().rsplit(maxsplit=2)[0]}"]
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(line for line in lines if line.startswith("MemAvailable"))
        told.append(f"{int(free.split()[1]) // 1024} MiB free")
    for what in ("cpu", "memory", "io"):
        with suppress(OSError, IndexError):
            some = Path(f"/proc/pressure/{what}").read_text().split()
            told.append(f"{what} {some[1]} {some[2]}")
    return ", ".join(told)


async def stacks(pids: Iterable[int], logs: Iterable[Path]) -> str:
    """What control planes say of where they are, by SIGUSR2 (`inside/sitecustomize.py`)."""
    before = {log: log.stat().st_size for log in logs if log.exists()}
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)
    await asyncio.sleep(_DUMP_S)
    return "\n".join(
        f"--- {log.name}\n{log.read_bytes()[size:].decode(errors='replace')}"
        for log, size in before.items()
    )
