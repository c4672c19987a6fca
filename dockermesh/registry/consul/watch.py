"""One blocking query, followed for ever.

Invariants: a watch never ends but by cancellation; it never reports data that it did not get; a
failure only changes what `Outages` says. After a failure the next query does not block, because a
Consul that was restarted may count from lower indexes, and would hold a query for an index of the
past until that index comes again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog

from dockermesh.consul.errors import explain
from dockermesh.registry.consul.pacing import Pacer, retries

Answer = tuple[Any, Any]
Fetch = Callable[[int | None], Awaitable[Answer]]
ATTENTIVE = "3s"
"""How long Consul may hold the queries of those who find out that it went back. One that was
restarted between two queries is asked with an index of before, and says nothing until then."""
OVERDUE_S = 4.5
"""When such a query should have been answered, though it is still waited for: Consul hangs."""
# Seconds over which those wake up who all wait for the same Consul.
_WAKE_SPREAD = 0.3
_WAKE_PAUSE = 1.0
_log = structlog.get_logger(__name__)


class Outages:
    """Who among the watches fails at the moment, and why. One log line when it begins, one when it
    ends.
    """

    def __init__(self, address: str, on_change: Callable[[], None]) -> None:
        self._address = address
        self._on_change = on_change
        self._failing: dict[str, str] = {}
        self._notes: dict[str, str] = {}
        self._recovery = asyncio.Event()
        self._reset = asyncio.Event()
        self._last_wake = float("-inf")

    @property
    def sentence(self) -> str:
        """Why the state may be out of date; empty when it is current."""
        if self._failing:
            return f"{next(iter(self._failing.values()))} The last known state is kept."
        return next(iter(self._notes.values()), "")

    def is_failing(self, key: str) -> bool:
        """Whether this watch failed at its last attempt."""
        return key in self._failing

    def is_silent(self, key: str) -> bool:
        """Whether it failed, or its answer is overdue."""
        return key in self._failing or key in self._notes

    def failed(self, key: str, error: BaseException) -> None:
        """The watch `key` failed."""
        if key in self._failing:
            return
        first = not self._failing
        self._failing[key] = explain(error, self._address, key)
        if first:
            _log.warning(
                "Consul cannot be followed", reason=self._failing[key], watch=key
            )
            self._on_change()

    def succeeded(self, key: str) -> None:
        """The watch `key` got an answer, or is no longer needed."""
        if self._failing.pop(key, None) is None:
            return
        self._wake_others()
        if not self._failing:
            _log.info("Consul is followed again", address=self._address)
        self._on_change()

    def note(self, key: str, sentence: str) -> None:
        """Say something that is no failure; the empty sentence takes it back."""
        if self._notes.get(key, "") == sentence:
            return
        self._notes.pop(key, None)
        if sentence:
            self._notes[key] = sentence
            _log.warning(sentence)
        self._on_change()

    @asynccontextmanager
    async def overdue(self, key: str, seconds: float) -> AsyncIterator[None]:
        """Say so if what is done here takes longer than this (0: it may)."""
        if not seconds:
            yield
            return
        sentence = f"Consul at {self._address} does not answer {key}; the last known state is kept."
        loop = asyncio.get_running_loop()
        saying = loop.call_later(seconds, self.note, key, sentence)
        try:
            yield
        finally:
            saying.cancel()
            self.note(key, "")

    def went_back(self) -> None:
        """Consul counts from lower indexes than before: nobody's index is worth anything."""
        self._reset.set()
        self._reset = asyncio.Event()

    async def unless_reset(self, fetching: Awaitable[Answer]) -> Answer | None:
        """What is fetched; None if Consul went back meanwhile, as it would hold back the answer to
        a query with an index of the past.
        """
        query = asyncio.ensure_future(fetching)
        reset = asyncio.ensure_future(self._reset.wait())
        try:
            await asyncio.wait((query, reset), return_when=asyncio.FIRST_COMPLETED)
            if query.done():
                return query.result()
        finally:
            query.cancel()
            reset.cancel()
        # Hundreds of watches at once would be an outage of its own.
        await asyncio.sleep(random.random() * _WAKE_SPREAD)
        return None

    async def pause(self, seconds: float) -> None:
        """Wait before another attempt; shorter if meanwhile somebody else's attempt succeeded after
        a failure.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._recovery.wait()
        except TimeoutError:
            return
        # Hundreds of watches at once would be the next outage.
        await asyncio.sleep(random.random() * _WAKE_SPREAD)

    def _wake_others(self) -> None:
        now = time.monotonic()
        if self._failing and now - self._last_wake >= _WAKE_PAUSE:
            self._last_wake = now
            self._recovery.set()
            self._recovery = asyncio.Event()


class Watch:
    """A blocking query, its index and its pace."""

    def __init__(
        self,
        key: str,
        fetch: Fetch,
        deliver: Callable[[Any], None],
        outages: Outages,
        *,
        overdue: float = 0.0,
        on_reset: Callable[[], None] = lambda: None,
        on_failure: Callable[[int, BaseException], None] = lambda _failures, _error: (
            None
        ),
    ) -> None:
        """`overdue`: seconds after which it is told that there is no answer yet (0: never)."""
        self._key = key
        self._fetch = fetch
        self._overdue = overdue
        self._deliver = deliver
        self._outages = outages
        self._on_reset = on_reset
        self._on_failure = on_failure

    async def run(self) -> None:
        """Follow until cancelled."""
        index: int | None = None
        seen = 0
        backoff = retries()
        pacer = Pacer(time.monotonic())

        while True:
            await _sleep(pacer.delay(time.monotonic()))
            try:
                async with self._outages.overdue(self._key, self._overdue):
                    fetched = await self._outages.unless_reset(self._fetch(index))
                if fetched is None:
                    index = None
                    continue
                answer, data = fetched
                # Index 0 would never block, and be asked for ever (Consul's own advice).
                new = max(int(answer), 1)
                went_back = new < seen
                if went_back:
                    self._outages.went_back()
                    self._on_reset()
                if new != seen or index is None:
                    self._deliver(data)
            except (
                Exception
            ) as error:  # whatever a registry sends must not end the watch
                index = None
                wait = backoff.next()
                self._outages.failed(self._key, error)
                self._on_failure(backoff.failures, error)
                await self._outages.pause(wait)
                continue

            backoff.reset()
            self._outages.succeeded(self._key)
            # An index that fell is asked for anew, without blocking.
            index, seen = (None if went_back else new), new


async def _sleep(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
