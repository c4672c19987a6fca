"""How long a start waits for a source that is away before copies of what it said last are used."""

from __future__ import annotations

import time
from collections.abc import Callable

GRACE_S = 10.0


class Grace:
    """One for all that a start reads: it begins when it is made."""

    def __init__(
        self,
        seconds: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._end = clock() + (GRACE_S if seconds is None else seconds)

    @property
    def left(self) -> float:
        """The seconds that are left; 0 when it is over."""
        return max(0.0, self._end - self._clock())
