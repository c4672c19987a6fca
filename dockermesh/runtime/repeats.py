"""What others can make happen as often as they like is told once, and then counted.

Invariant: however often it happens, and from however many addresses, a minute has few lines and the
memory does not grow.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)
INTERVAL_S = 60.0
_MOST_PEERS = 100
_OTHERS = "others"
_LONGEST = 300


class Repeats:
    """Lines of a log by event and peer: the first at once, the others as a number per interval."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._why: dict[tuple[str, str], str] = {}

    def note(self, event: str, peer: str, reason: str) -> None:
        """It happened. What the peer sent must be escaped in `reason`: it could forge lines."""
        key = (event, peer)
        if key not in self._seen and len(self._seen) >= _MOST_PEERS:
            key = (event, _OTHERS)
        self._seen[key] += 1
        self._why[key] = reason
        if self._seen[key] == 1:
            log.warning(event, peer=key[1], reason=reason[:_LONGEST])
        if self._clock() - self._since >= INTERVAL_S:
            self.tell()

    def tell(self) -> None:
        """Say how often each happened again since the last time."""
        seen, why = self._seen, self._why
        self._seen, self._why, self._since = Counter(), {}, self._clock()
        for (event, peer), count in seen.items():
            # The first was told when it happened.
            if count > 1:
                reason = why[event, peer][:_LONGEST]
                log.warning(event, peer=peer, again=count - 1, reason=reason)

    async def run(self) -> None:
        """Tell once per interval, until cancelled: also of what has stopped happening."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.tell()
