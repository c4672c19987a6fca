"""Work in threads that has an end even where who waits for it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def done_in_thread(work: Callable[[], None]) -> None:
    """Run `work` in a thread. Who is cancelled meanwhile goes on when it has ended: what comes next
    may read what it writes.
    """
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise
