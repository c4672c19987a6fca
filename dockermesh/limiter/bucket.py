"""The buckets of limits: so many at once, and after that one by one at the rate.

A bucket leaks: each request pours a unit of time in, `requests` units leak in a unit of time, and
what would overflow is refused (GCRA). In whole numbers, so nothing is lost to rounding. Invariant:
in any time `t` no more than `burst + rate * t` pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.model.rate_limits import Rate

TICKS = 1_000_000
"""Of a second; Redis tells the time in these."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The measures of a bucket: what one request pours in, what leaks in a tick, what it holds."""

    cost: int
    leak: int
    size: int

    def level(self, then: int, level: int, now: int) -> int:
        """What is in it now, by what was in it then."""
        return max(0, level - max(0, now - then) * self.leak)

    def remaining(self, level: int) -> int:
        """How many more would pass at once."""
        return max(0, self.size - level) // self.cost

    def wait(self, level: int, hits: int = 1) -> int:
        """The ticks until so many fit in."""
        missing = level + hits * self.cost - self.size
        return max(0, -(-missing // self.leak))


def bucket_of(rate: Rate) -> Bucket:
    """The bucket of a rate; that of none is full for ever."""
    cost = rate.per * TICKS
    return Bucket(cost, max(1, rate.requests), rate.burst * cost)
