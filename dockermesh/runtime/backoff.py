"""How long to wait after a failure."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds that grow from `first` up to `cap`, with jitter, so that many who failed
    together do not return together.

    `jitter` is how much of a delay is left to chance; 0 for one that nobody shares.
    """

    def __init__(
        self, first: float, cap: float, *, factor: float = 2.0, jitter: float = 0.5
    ) -> None:
        self._first = first
        self._cap = cap
        self._factor = factor
        self._jitter = jitter
        self._failures = 0

    @property
    def failures(self) -> int:
        """How many there were in a row."""
        return self._failures

    def next(self) -> float:
        """How long to wait after one more failure."""
        # Bounded, as a float does not hold the delay after some hundred failures.
        delay = min(self._cap, self._first * self._factor ** min(self._failures, 64))
        self._failures += 1
        return delay * random.uniform(1.0 - self._jitter, 1.0)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0
