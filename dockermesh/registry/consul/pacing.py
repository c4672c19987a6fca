"""How often a watch may ask, and how long it waits after a failure."""

from __future__ import annotations

from dockermesh.runtime.backoff import Backoff

# Queries in a row before they count as churn, and how fast that is forgotten, a second.
_BURST = 4.0
_BURST_RATE = 3.0
# Queries that are free while it is quiet, and how many a second there are under churn.
_ALLOWANCE = 120.0
_SUSTAINED = 1.0
# Seconds. A restarted Consul is back within a few, so waiting longer gains nothing.
_FIRST_DELAY = 0.1
_LONGEST_DELAY = 6.0


class Pacer:
    """At most one query per second in the long run, and none delayed while changes are rare.

    Two token buckets. The small one notices churn: whoever needs more than a few queries in a row
    loses the large one's allowance, and from then on gets one query per second until it is quiet
    again.
    """

    def __init__(self, now: float) -> None:
        self._burst = _BURST
        self._allowance = _ALLOWANCE
        self._last = now

    def delay(self, now: float) -> float:
        """Seconds to wait before the next query, which is thereby counted."""
        passed = max(now - self._last, 0.0)
        self._last = now
        self._burst = min(_BURST, self._burst + passed * _BURST_RATE)
        self._allowance = min(_ALLOWANCE, self._allowance + passed * _SUSTAINED)
        if self._burst < 1.0:
            self._allowance = min(self._allowance, 0.0)
        self._burst = max(self._burst - 1.0, 0.0)
        self._allowance -= 1.0
        return max(0.0, -self._allowance / _SUSTAINED)


def retries() -> Backoff:
    """How long a watch waits after failures in a row."""
    return Backoff(_FIRST_DELAY, _LONGEST_DELAY)
