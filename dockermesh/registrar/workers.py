"""One handler at a time per key, different keys at once; marks that arrive meanwhile are coalesced
into one more run.

Invariant: after the last `mark` of a key its handler runs to success at least once, however often
it fails before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from dockermesh.errors import DockermeshError
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)


class KeyedWorkers:
    """Runs `handle(key)` for marked keys. A mark ends the wait after a failure: newer state may
    well succeed.
    """

    def __init__(
        self,
        handle: Callable[[str], Awaitable[None]],
        *,
        first: float = 0.5,
        cap: float = 30.0,
    ) -> None:
        self._handle = handle
        self._first = first
        self._cap = cap
        self._marks: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def mark(self, key: str) -> None:
        """Have `key` handled soon."""
        # What is cancelled at the end still says that something has changed.
        if self._is_closed:
            return
        self._marks.setdefault(key, asyncio.Event()).set()
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(
                self._work(key), name=f"registrar {key}"
            )

    async def idle(self) -> None:
        """Wait until nothing is left to do."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        """Stop; what is being handled is cancelled, and marks mean nothing any more."""
        self._is_closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: str) -> None:
        mark = self._marks[key]
        backoff = Backoff(self._first, self._cap)
        try:
            while mark.is_set():
                # Before the work, not after: a mark that comes meanwhile is for newer state.
                mark.clear()
                if await self._succeeds(key):
                    backoff.reset()
                    continue

                try:
                    await asyncio.wait_for(mark.wait(), backoff.next())
                except TimeoutError:
                    mark.set()
        finally:
            del self._tasks[key]
            del self._marks[key]

    async def _succeeds(self, key: str) -> bool:
        try:
            await self._handle(key)
        except DockermeshError as error:
            log.warning(
                "failed, will try again", key=key, error=error.what, where=error.where
            )
            return False
        except Exception:
            # A bug that one container triggers must not stop the others' registration.
            log.exception("failed unexpectedly, will try again", key=key)
            return False
        return True
