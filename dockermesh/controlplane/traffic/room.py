"""Whether proxies have room for more series of metrics. Envoy itself does not tell what it drops.

Invariants: each proxy is asked once in a while, one after the other, for its counters alone; of one
core that takes a hundredth at most, however large the mesh is.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import aiohttp
import structlog

from dockermesh.ca import AuthorityError
from dockermesh.controlplane.telemetry.targets import with_metrics
from dockermesh.controlplane.traffic.asking import CLOSE, FAILURES, TIMEOUT, page_of
from dockermesh.controlplane.traffic.page import number_of
from dockermesh.errors import NotReadyError
from dockermesh.model import Workload
from dockermesh.model.contract import PROMETHEUS_PORT
from dockermesh.translate.telemetry.metrics import MOST_COUNTERS, MOST_HISTOGRAM_SETS

log = structlog.get_logger(__name__)

FILTER = "istio_.*_total|dockermesh_requests_total"
EVERY_S = 300.0
_SHARE = 0.01
_FIRST_S = 30.0
_MOST_NAMED = 20
_REQUESTS = "istio_requests_total{"
_TOTAL = "dockermesh_requests_total{"
_OF_HISTOGRAMS = re.compile(
    r"(?:reporter|response_code|connection_security_policy|destination_service"
    r'|(?:source|destination)_workload(?:_namespace)?)="[^"]*"'
)


@dataclass(frozen=True, slots=True)
class Room:
    """What a proxy counts by: its counters, the sets of labels of its histograms, and how many of
    its requests are in none of the counters. What was forgotten, as nobody counted in it any more,
    is among these.
    """

    counters: int = 0
    sets: int = 0
    requests: int = 0
    uncounted: int = 0

    @property
    def is_full(self) -> bool:
        """Whether something new is not counted, or not measured."""
        return self.counters >= MOST_COUNTERS or self.sets >= MOST_HISTOGRAM_SETS

    def sentence(self, proxy: str) -> str:
        """What to tell of it."""
        if self.counters < MOST_COUNTERS:
            return (
                f"{proxy} has no room for more histograms: durations and sizes of what is new are"
                " not measured"
            )
        return (
            f"{proxy} has no room for more series of metrics: {self.uncounted} of"
            f" {self.requests} requests are in none, and what is new is not counted"
        )


def read_room(text: str) -> Room:
    """What a page of counters says."""
    counters = requests = counted = 0
    sets: set[tuple[str, ...]] = set()
    for line in text.splitlines():
        if line.startswith(_TOTAL):
            requests += number_of(line.rpartition(" ")[2])
        elif line.startswith("istio_"):
            counters += 1
            if line.startswith(_REQUESTS):
                counted += number_of(line.rpartition(" ")[2])
                sets.add(tuple(_OF_HISTOGRAMS.findall(line)))
    return Room(counters, len(sets), requests, max(0, requests - counted))


class RoomKeeper:
    """Knows which proxies have no room."""

    def __init__(
        self,
        workloads: Callable[[], Mapping[str, Workload]],
        tls: Callable[[], ssl.SSLContext],
        port: int = PROMETHEUS_PORT,
        first: float = _FIRST_S,
    ) -> None:
        """`workloads` are those of the catalog, `tls` is how their proxies are asked; `first` is
        when, in seconds from the start.
        """
        self._workloads = workloads
        self._tls = tls
        self._port = port
        self._first = first
        self.full: dict[str, Room] = {}

    def warnings(self) -> Iterator[str]:
        """A sentence for each proxy without room, and where there are many, how many more."""
        known = self._workloads()
        full = sorted(name for name in self.full if name in known)
        for name in full[:_MOST_NAMED]:
            yield self.full[name].sentence(name)
        if len(full) > _MOST_NAMED:
            yield f"{len(full) - _MOST_NAMED} more proxies have no room for more metrics"

    async def run(self) -> None:
        """Ask for ever."""
        await asyncio.sleep(self._first)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
            while True:
                start = time.monotonic()
                await self._ask_all(session)
                await asyncio.sleep(max(1.0, EVERY_S - (time.monotonic() - start)))

    async def _ask_all(self, session: aiohttp.ClientSession) -> None:
        asked = {w.name: w.address for w in with_metrics(self._workloads().values())}
        self.full = {name: room for name, room in self.full.items() if name in asked}
        for name, address in asked.items():
            spent = time.process_time()
            await self._ask(session, name, address)
            await asyncio.sleep((time.process_time() - spent) / _SHARE)

    async def _ask(
        self, session: aiohttp.ClientSession, name: str, address: str
    ) -> None:
        try:
            place = (address, self._port)
            page = await page_of(session, place, self._tls(), FILTER, CLOSE)
        except (AuthorityError, NotReadyError, *FAILURES) as error:
            log.debug(
                "a proxy is not asked for its room", proxy=name, reason=str(error)
            )
            return
        room = read_room(page)
        if room.is_full:
            if name not in self.full:
                log.warning("no room for more metrics", reason=room.sentence(name))
            self.full[name] = room
        else:
            self.full.pop(name, None)
