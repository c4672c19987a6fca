"""A long-running process gives memory back that it no longer uses.

glibc keeps what was freed in small pieces: after a thousand TLS handshakes at once, over a hundred
MB that nobody uses, for ever.
"""

from __future__ import annotations

import asyncio
import ctypes

INTERVAL_S = 30.0


async def give_back() -> None:
    """Give free memory back every half minute, until cancelled."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await asyncio.sleep(INTERVAL_S)
        # Other C libraries (musl, macOS) have no such function, and less of a need for it.
        if trim is not None:
            # Milliseconds, in which the loop has something better to do.
            await asyncio.to_thread(trim, 0)
