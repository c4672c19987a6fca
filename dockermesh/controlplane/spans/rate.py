"""How many spans a sender may send: so many a second, and a burst."""

from __future__ import annotations

import time
from collections.abc import Callable

_MOST_SENDERS = 10_000


class Rate:
    """A bucket of tokens for each sender, and one for all."""

    def __init__(
        self,
        per_second: float,
        burst: float,
        in_all: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`in_all`: what all senders together may send in a second."""
        self._own = (per_second, burst)
        self._all = (in_all, max(in_all, burst))
        self._clock = clock
        # How much there was, and when.
        self._left: dict[str, tuple[float, float]] = {}

    def is_spent(self, sender: str) -> bool:
        """Whether nothing more of the sender's is taken at the moment."""
        return self._now(sender, self._own) < 1 or self._now("", self._all) < 1

    def take(self, sender: str, wanted: int) -> int:
        """How many of so many are taken."""
        taken = int(min(wanted, self._now(sender, self._own), self._now("", self._all)))
        for name, bucket in ((sender, self._own), ("", self._all)):
            self._left[name] = (self._now(name, bucket) - taken, self._clock())
        if len(self._left) > _MOST_SENDERS:
            self._forget()
        return taken

    def _now(self, name: str, bucket: tuple[float, float]) -> float:
        per_second, burst = bucket
        left, since = self._left.get(name, (burst, 0.0))
        return min(burst, left + (self._clock() - since) * per_second)

    def _forget(self) -> None:
        # Who has a full bucket is as one who never came.
        self._left = {
            name: left
            for name, left in self._left.items()
            if not name or self._now(name, self._own) < self._own[1]
        }
