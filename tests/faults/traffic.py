"""What clients saw: every request of every route, with its time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APP = Path(__file__).with_name("app.py")


@dataclass(frozen=True, slots=True)
class Seen:
    """One request."""

    route: str
    begin: float
    end: float
    good: bool
    got: str


class Traffic:
    """Clients that ask without a pause, and what they got."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self._running: list[asyncio.subprocess.Process] = []
        self._readers: list[asyncio.Task[None]] = []

    async def start(self, prefix: list[str], routes: list[dict[str, Any]]) -> None:
        """Start a client for these routes; `prefix` is the command that brings it into its
        network.
        """
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *(sys.executable, "-S", str(APP), "ask", json.dumps(routes)),
            stdout=asyncio.subprocess.PIPE,
        )
        self._running.append(process)
        self._readers.append(asyncio.create_task(self._read(process)))

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            route, begin, end, good, got = line.decode().rstrip("\n").split("\t", 4)
            self.seen.append(Seen(route, float(begin), float(end), good == "1", got))

    async def stop(self) -> None:
        """End all clients."""
        for process in self._running:
            if process.returncode is None:
                process.kill()
                await process.wait()
        for reader in self._readers:
            reader.cancel()

    def processes(self) -> Iterator[tuple[int, int]]:
        """The clients, by number."""
        yield from ((n, process.pid) for n, process in enumerate(self._running, 1))

    def since(self, moment: float, routes: Iterable[str] = ()) -> list[Seen]:
        """The requests that ended after a moment."""
        wanted = frozenset(routes)
        return [
            seen
            for seen in self.seen
            if seen.end >= moment and (not wanted or seen.route in wanted)
        ]

    def failures(self, moment: float) -> list[Seen]:
        """Those among them that got something else than they should."""
        return [seen for seen in self.since(moment) if not seen.good]

    def answers(self, moment: float, route: str) -> Counter[str]:
        """What one route answered since a moment."""
        return Counter(seen.got for seen in self.since(moment, [route]))

    async def flows(self, seconds: float = 60, count: int = 5) -> None:
        """Wait until every route got so many good answers in a row from now on."""
        begin = time.monotonic()
        routes = {seen.route for seen in self.seen}
        while True:
            await asyncio.sleep(0.05)
            recent = [s for s in self.since(begin) if s.begin >= begin]
            good = Counter(s.route for s in recent if s.good)
            if routes and all(good[route] >= count for route in routes):
                return
            if time.monotonic() - begin > seconds:
                bad = [s for s in recent if not s.good][-3:]
                raise TimeoutError(f"not all routes answer: {dict(good)} {bad}")
