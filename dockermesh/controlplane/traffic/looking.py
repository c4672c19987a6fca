"""Asks all proxies for their counts when somebody looks; in a mesh that is not large, over
connections that stay open meanwhile. In a large one each round has the counts of all, and durations
of some in turn, which are most of what there is to read.

Invariants: nothing is asked while nobody looks; and of one core looking takes an eighth at most,
however large the mesh is, for the time that a round took decides when the next may be.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Set
from typing import Any

import aiohttp
import structlog

from dockermesh.ca import AuthorityError
from dockermesh.controlplane.telemetry.targets import with_metrics
from dockermesh.controlplane.traffic.asking import CLOSE, FAILURES, TIMEOUT, page_of
from dockermesh.controlplane.traffic.page import COUNTS, DURATIONS, WHOLE, forget_series
from dockermesh.controlplane.traffic.totals import Totals
from dockermesh.errors import NotReadyError
from dockermesh.model import Workload
from dockermesh.model.contract import PROMETHEUS_PORT

log = structlog.get_logger(__name__)

SHARE = 0.12
"""Of a core, at most."""
_QUICKEST_S = 1.0
_IDLE_S = 60.0
_AT_ONCE = 8
_MOST_OPEN = 100
"""Connections that stay open: each holds a quarter of a MiB; a handshake takes a millisecond."""
_FOR_DURATIONS = 0.5
"""How long they may take, in times of what the counts of all took."""
_MOST_NAMED = 20
"""Proxies that did not answer, by name in a report."""


class Looking:
    """What is known of traffic while somebody looks."""

    def __init__(
        self,
        workloads: Callable[[], Mapping[str, Workload]],
        tls: Callable[[], ssl.SSLContext],
        port: int = PROMETHEUS_PORT,
    ) -> None:
        """`workloads` are those of the catalog, `tls` is how their proxies are asked."""
        self._workloads = workloads
        self._tls = tls
        self._port = port
        self._totals = Totals()
        self._session: aiohttp.ClientSession | None = None
        self._round = asyncio.Lock()
        self._report: dict[str, Any] = {}
        self._next = 0.0
        self._turn: deque[str] = deque()
        self._turn_began = 0.0
        self._turn_s = 0.0
        self._idle: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    async def look(self) -> dict[str, Any]:
        """The counts of all edges: those of now, or in a large mesh of a moment ago."""
        self._stay_awake()
        async with self._round:
            if time.monotonic() >= self._next:
                await self._ask_all()
        return self._report

    async def close(self) -> None:
        """Close all connections, and forget."""
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        async with self._round:
            session, self._session = self._session, None
            self._totals, self._report, self._next = Totals(), {}, 0.0
            self._turn.clear()
            self._turn_s = 0.0
            forget_series()
            if session is not None:
                await session.close()

    def _stay_awake(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(_IDLE_S, self._fall_asleep)

    def _fall_asleep(self) -> None:
        self._idle = None
        self._closing = asyncio.ensure_future(self.close())

    async def _ask_all(self) -> None:
        spent = time.process_time()
        readable = with_metrics(self._workloads().values())
        asked = {workload.name: workload.address for workload in readable}
        self._totals.keep(asked)
        silent, durations_s = await self._ask_parts(asked, spent)
        self._report = {
            "at": time.time(),
            # Of how long a time the durations are, where that is not the time between two reports.
            **({"durations_s": round(durations_s, 1)} if durations_s else {}),
            "proxies": len(asked),
            "silent": silent[:_MOST_NAMED],
            "more_silent": len(silent[_MOST_NAMED:]),
            "edges": list(self._totals.edges()),
        }
        cost = time.process_time() - spent
        self._next = time.monotonic() + max(_QUICKEST_S, cost / SHARE)

    async def _ask_parts(
        self, asked: Mapping[str, str], spent: float
    ) -> tuple[list[str], float]:
        """Who did not answer, and the seconds that durations are of."""
        if len(asked) <= _MOST_OPEN:
            return await self._ask(asked, WHOLE, self._totals.take), 0.0

        silent = await self._ask(asked, COUNTS, self._totals.take)
        now = time.process_time()
        end = now + (now - spent) * _FOR_DURATIONS
        heard = asked.keys() - {*silent}
        while heard and time.process_time() < end:
            batch = self._next_batch(heard)
            some = {name: asked[name] for name in batch}
            await self._ask(some, DURATIONS, self._totals.take_durations)
            heard = heard - {*batch}
        return silent, max(self._turn_s, time.monotonic() - self._turn_began)

    def _next_batch(self, heard: Set[str]) -> list[str]:
        """Whose turn it is; of all that are asked each once in a turn."""
        batch: list[str] = []
        while not batch:
            if not self._turn:
                now = time.monotonic()
                self._turn_s = now - self._turn_began if self._turn_began else 0.0
                self._turn_began = now
                self._turn.extend(sorted(heard))
            while self._turn and len(batch) < _AT_ONCE:
                name = self._turn.popleft()
                if name in heard:
                    batch.append(name)
        return batch

    async def _ask(
        self,
        asked: Mapping[str, str],
        wanted: str,
        take: Callable[[str, str], None],
    ) -> list[str]:
        try:
            tls = self._tls()
        except (AuthorityError, NotReadyError) as error:
            log.warning("proxies cannot be asked for their counts", reason=str(error))
            return [*asked]
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S)
            self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        session, gate = self._session, asyncio.Semaphore(_AT_ONCE)

        async def one(name: str, address: str) -> str:
            async with gate:
                try:
                    take(name, await self._page(session, address, tls, wanted))
                except FAILURES as error:
                    log.debug(
                        "a proxy does not tell its counts",
                        proxy=name,
                        reason=str(error),
                    )
                    return name
            return ""

        silent = await asyncio.gather(*(one(n, a) for n, a in asked.items()))
        return [name for name in silent if name]

    async def _page(
        self,
        session: aiohttp.ClientSession,
        address: str,
        tls: ssl.SSLContext,
        wanted: str,
    ) -> str:
        headers = {} if wanted == WHOLE else CLOSE
        return await page_of(session, (address, self._port), tls, wanted, headers)
