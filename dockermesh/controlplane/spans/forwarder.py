"""Sends the spans that were taken on to another collector, which takes them as Zipkin does.

Invariants: nobody waits for it, neither proxies nor the pages; memory is bounded, and what has no
room, or is not taken, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Iterable

import aiohttp
import structlog

from dockermesh.controlplane.spans.zipkin import SPANS_PATH, Span
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

_MOST_WAITING = 10_000
_BATCH = 500
_GATHER_S = 0.5
_TIMEOUT = aiohttp.ClientTimeout(total=10.0, sock_connect=3.0)
_RETRY_S, _LAST_RETRY_S = 1.0, 30.0


class SpanForwarder:
    """Spans on their way to one collector."""

    def __init__(self, url: str, most_waiting: int = _MOST_WAITING) -> None:
        """`url` is the collector's, without a path; empty for none."""
        self.url = url.rstrip("/")
        self.counts: Counter[str] = Counter()
        self.problem = ""
        self._waiting: deque[Span] = deque(maxlen=most_waiting)
        self._news = asyncio.Event()

    def add(self, spans: Iterable[Span]) -> None:
        """Send these on; older ones make room for them."""
        if not self.url:
            return
        for span in spans:
            self.counts["dropped"] += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(span)
        self._news.set()

    async def run(self) -> None:
        """Send until cancelled."""
        if not self.url:
            return
        backoff = Backoff(_RETRY_S, _LAST_RETRY_S)
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            while True:
                await self._news.wait()
                self._news.clear()
                # Many that come one by one are few reports.
                await asyncio.sleep(_GATHER_S)
                while self._waiting:
                    if await self._send(session, self._batch()):
                        backoff.reset()
                    else:
                        await asyncio.sleep(backoff.next())

    def _batch(self) -> list[Span]:
        count = min(_BATCH, len(self._waiting))
        return [self._waiting.popleft() for _ in range(count)]

    async def _send(self, session: aiohttp.ClientSession, spans: list[Span]) -> bool:
        """Whether the collector took them; they are not sent twice."""
        body = json.dumps(spans, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json"}
        try:
            async with session.post(
                self.url + SPANS_PATH, data=body, headers=headers, allow_redirects=False
            ) as answer:
                problem = "" if answer.status < 300 else f"HTTP {answer.status}"
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            problem = str(error) or type(error).__name__

        self.counts["dropped" if problem else "sent"] += len(spans)
        if problem and not self.problem:
            # Once per outage.
            log.warning("spans are not sent on", url=self.url, reason=problem)
        self.problem = problem
        return not problem
