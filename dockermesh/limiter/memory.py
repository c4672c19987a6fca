"""Counts in memory, exact for one limiter.

Invariants: a question that is refused costs no bucket anything; each limit keeps `most` buckets,
of which the least recently used make room, so who makes up values costs no more than that, and
nobody of another limit. What has leaked out is let go.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dockermesh.limiter.bucket import TICKS
from dockermesh.limiter.plan import Plan, Share

MOST_BUCKETS = 10_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one share: whether it was over its limit, how many more would pass, and the
    ticks until there is room for more.
    """

    is_over: bool
    remaining: int
    wait: int


Verdicts = list[Verdict | None]
"""For each descriptor, as in the plan."""


def is_refused(plan: Plan, verdicts: Verdicts) -> bool:
    """Whether a limit that is no dry run is over."""
    return any(
        verdict is not None and verdict.is_over and not share.limit.shadow
        for share, verdict in zip(plan, verdicts, strict=True)
        if share is not None
    )


def verdict_of(share: Share, level: int, *, is_over: bool) -> Verdict:
    """What to say about a share, by what is in its bucket then."""
    bucket = share.bucket
    wait = bucket.wait(level, share.hits if is_over else 1)
    return Verdict(is_over, bucket.remaining(level), wait)


@dataclass(slots=True)
class _Table:
    """The buckets of a limit: when they were filled last, and to which level; the least recently
    used first. After `drain` ticks any of them is empty.
    """

    buckets: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    drain: int = 0


def _now() -> int:
    return time.monotonic_ns() * TICKS // 1_000_000_000


class MemoryCounts:
    """The buckets that are not empty; one that nobody knows is."""

    def __init__(self, most: int = MOST_BUCKETS, now: Callable[[], int] = _now) -> None:
        self._most = most
        self._now = now
        self._tables: dict[str, _Table] = {}
        self.evicted = 0

    def __len__(self) -> int:
        return sum(len(table.buckets) for table in self._tables.values())

    def decide(self, plan: Plan) -> Verdicts:
        """Take what a question asks for, if all of it is there."""
        now = self._now()
        levels: dict[tuple[str, bytes], int] = {}
        found: Verdicts = []
        refused = False
        for share in plan:
            if share is None:
                found.append(None)
                continue
            place = (share.table, share.key)
            # Two descriptors may be about one bucket.
            level = levels.get(place)
            if level is None:
                level = self._level(share, now)
            filled = level + share.hits * share.bucket.cost
            is_over = filled > share.bucket.size
            if is_over:
                refused = refused or not share.limit.shadow
            else:
                levels[place] = level = filled
            found.append(verdict_of(share, level, is_over=is_over))

        if not refused:
            for share in plan:
                if share is not None:
                    self._fill(share, levels, now)
        return found

    def sweep(self) -> None:
        """Let go of the buckets that have been empty for long enough to be so at any rate."""
        now = self._now()
        for name, table in list(self._tables.items()):
            while table.buckets:
                key = next(iter(table.buckets))
                if now - table.buckets[key][0] < table.drain:
                    break
                del table.buckets[key]
            if not table.buckets:
                del self._tables[name]

    def _level(self, share: Share, now: int) -> int:
        table = self._tables.get(share.table)
        found = table.buckets.get(share.key) if table is not None else None
        return 0 if found is None else share.bucket.level(*found, now)

    def _fill(
        self, share: Share, levels: dict[tuple[str, bytes], int], now: int
    ) -> None:
        level = levels.get((share.table, share.key))
        if level is None:
            return
        table = self._tables.get(share.table)
        if table is None:
            table = self._tables[share.table] = _Table()
        table.drain = max(table.drain, share.bucket.size // share.bucket.leak + 1)
        buckets = table.buckets
        # Taken out first, so that it is the last to make room.
        buckets.pop(share.key, None)
        buckets[share.key] = (now, level)
        if len(buckets) > self._most:
            del buckets[next(iter(buckets))]
            self.evicted += 1
