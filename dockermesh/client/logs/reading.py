"""The lines of many containers in the order of time: those that are there, and those that come.

Invariant: no line is given twice, and none is lost when a container starts again.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dockermesh.client.logs.lines import Line, Source, Wanted, make_line
from dockermesh.docker.container_logs import container_lines
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError

_AT_ONCE = 8
_SECOND = 10**9
_PATIENCE_S = 0.6
"""How long a line waits for earlier ones of others: a proxy writes what it logs after 0.25 s."""
_LOOK_S = 2.0
"""How often containers are looked for that were not there before."""
Tell = Callable[[str], None]
"""Takes a warning."""


@dataclass(slots=True)
class Reader:
    """Reads containers. `since` is a Unix time in nanoseconds, or 0; `tail` the number of last
    lines of each container.
    """

    engine: LocalEngine
    wanted: Wanted
    since: int = 0
    tail: str = "all"
    tell: Tell = lambda _text: None
    _written: dict[str, int] = field(default_factory=dict)

    def history(self, sources: Iterable[Source]) -> list[Line]:
        """What is there of all these, in order."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(self._past, sources))
        return sorted(itertools.chain.from_iterable(found), key=lambda line: line.order)

    def _past(self, source: Source) -> list[Line]:
        return list(self._read(source, since=self.since, tail=self.tail, follow=False))

    def _read(
        self, source: Source, *, since: int, tail: str, follow: bool
    ) -> Iterator[Line]:
        known = self._written.get(source.container, 0)
        stamp = f"{since // _SECOND}.{since % _SECOND:09d}" if since else ""
        try:
            for stamped in container_lines(
                self.engine, source.container, since=stamp, tail=tail, follow=follow
            ):
                line = make_line(source, stamped.time, stamped.text)
                # The engine gives the line at `since` itself again.
                if line.written <= known:
                    continue
                newest = self._written.get(source.container, 0)
                self._written[source.container] = max(line.written, newest)
                if self.wanted.takes(line):
                    yield line
        except EngineError as error:
            self.tell(f"{source.workload} ({source.part}): {error.what}")

    def follow(self, find: Callable[[], list[Source]]) -> Iterator[Line]:
        """What comes after the history, of the containers that `find` gives now and later."""
        arrived: queue.SimpleQueue[Line] = queue.SimpleQueue()
        readers: dict[str, threading.Thread] = {}
        waiting = _Waiting()
        looked = -_LOOK_S

        while True:
            now = time.monotonic()
            if now - looked >= _LOOK_S:
                looked = now
                self._start(find(), readers, arrived)
            try:
                waiting.add(arrived.get(timeout=0.1))
                while True:
                    waiting.add(arrived.get_nowait())
            except queue.Empty:
                pass
            yield from waiting.due()

    def _start(
        self,
        sources: Iterable[Source],
        readers: dict[str, threading.Thread],
        arrived: queue.SimpleQueue[Line],
    ) -> None:
        """A thread for every running container that none reads."""
        for source in sources:
            reader = readers.get(source.container)
            if not source.is_running or (reader is not None and reader.is_alive()):
                continue
            thread = threading.Thread(
                target=self._pass_on, args=(source, arrived), daemon=True
            )
            readers[source.container] = thread
            thread.start()

    def _pass_on(self, source: Source, arrived: queue.SimpleQueue[Line]) -> None:
        # A container that is new has no line yet that was given, and none is left out.
        since = self._written.get(source.container, self.since)
        for line in self._read(source, since=since, tail="all", follow=True):
            arrived.put(line)


@dataclass(slots=True)
class _Waiting:
    """Lines that are held for a moment, as an earlier one may still come."""

    _heap: list[tuple[tuple[int, int, str], int, Line]] = field(default_factory=list)
    _arrivals: deque[tuple[float, int]] = field(default_factory=deque)
    _given: set[int] = field(default_factory=set)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def add(self, line: Line) -> None:
        number = next(self._numbers)
        heapq.heappush(self._heap, (line.order, number, line))
        self._arrivals.append((time.monotonic(), number))

    def due(self) -> Iterator[Line]:
        """Each line that has waited for long enough, after all that are before it."""
        # By arrival, not by order: requests that began long ago would else hold up all others.
        latest = time.monotonic() - _PATIENCE_S
        while self._arrivals and self._arrivals[0][0] <= latest:
            _, wanted = self._arrivals.popleft()
            while wanted not in self._given:
                _, number, line = heapq.heappop(self._heap)
                self._given.add(number)
                yield line
            self._given.discard(wanted)
