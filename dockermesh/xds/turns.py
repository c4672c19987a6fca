"""Large responses are written a few at a time.

gRPC holds a copy of what a stream has not taken yet: a module of some MiB for a thousand proxies at
once would be some GiB. Invariant: who does not read keeps nobody waiting for longer than
`PATIENCE_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

LARGE = 1 << 18
"""From this size on, in bytes."""
_AT_ONCE = 8
PATIENCE_S = 2.0


class Turns:
    """Lets a few write at a time."""

    def __init__(self, at_once: int = _AT_ONCE, patience: float = PATIENCE_S) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._patience = patience

    @asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """While it is somebody's turn; small responses need none."""
        if size < LARGE:
            yield
            return

        await self._free.acquire()
        left = ExitStack()
        left.callback(self._free.release)
        # Closed twice, it calls nobody twice.
        patience = asyncio.get_running_loop().call_later(self._patience, left.close)
        try:
            yield
        finally:
            patience.cancel()
            left.close()
