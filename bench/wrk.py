"""Closed-loop load by `wrk` on a way through proxies, and the CPU that they use for it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Load:
    """What one load measured: requests, and a second; microseconds of CPU for each; and
    what `wrk` printed.
    """

    count: int
    rate: float
    cpu: float
    text: str


def require() -> None:
    """End with how to install it, if there is no `wrk`."""
    if shutil.which("wrk") is None:
        sys.exit("no wrk -> install it: apt-get install wrk")


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds of CPU that processes have used so far."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(
    url: str, host: str, proxies: Iterable[int], *, connections: int, seconds: int
) -> Load:
    """Ask for this, of a host, so many at a time and for so long."""
    pids = tuple(proxies)
    before = cpu_s(pids)
    command = ("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency")
    ran = await asyncio.create_subprocess_exec(
        *command, "-H", f"Host: {host}", url, stdout=asyncio.subprocess.PIPE
    )
    text = (await ran.communicate())[0].decode()
    found = re.search(r"(\d+) requests in", text)
    assert found and "Non-2xx" not in text, text
    count = int(found[1])
    if not count:
        sys.exit(f"{host}: no answer in {seconds} s -> run it on a quiet machine")
    cpu = (cpu_s(pids) - before) / count * 1e6
    return Load(count, count / seconds, cpu, text)
