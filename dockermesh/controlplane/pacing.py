"""Work that is due at once, but not more often than it makes sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Paced:
    """A call that happens at once; where the last one was less than `interval` seconds ago, when
    that time is over.

    All that ask for it meanwhile share that one call, so that many changes in a row are few pushes
    and the last one always counts. Invariant: two calls are never less than the interval apart.
    Used from one event loop.
    """

    def __init__(self, call: Callable[[], None], interval: float = 0.1) -> None:
        self._call = call
        self._interval = interval
        self._last = float("-inf")
        self._planned: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()

    def __call__(self) -> None:
        """Ask for the call."""
        if self._planned is not None:
            return
        loop = asyncio.get_running_loop()
        due = self._last + self._interval
        if loop.time() >= due:
            self._run()
        else:
            self._planned, self._over = loop.call_at(due, self._run), asyncio.Event()

    async def settled(self) -> None:
        """Wait until what was asked for before this has been done: for the rest of an interval at
        most.
        """
        if self._planned is not None:
            await self._over.wait()

    def cancel(self) -> None:
        """Forget a call that is planned."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
            self._over.set()

    def _run(self) -> None:
        self._planned = None
        # Counted from the end: work that takes long must leave time for everything else.
        try:
            self._call()
        finally:
            self._last = asyncio.get_running_loop().time()
            self._over.set()
