"""Counts in memory: all or nothing, bounded, and idle ones let go."""

from __future__ import annotations

from dockermesh.limiter.bucket import TICKS, bucket_of
from dockermesh.limiter.memory import MemoryCounts, is_refused
from dockermesh.limiter.plan import Share
from dockermesh.model.rate_limits import CountedLimit, Per, Rate


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.ticks = 1_000 * TICKS

    def __call__(self) -> int:
        return self.ticks


def share(
    requests: int,
    burst: int,
    key: bytes = b"",
    *,
    hits: int = 1,
    name: str = "x",
    **fields: bool,
) -> Share:
    rate = Rate(requests, Per.SECOND, burst)
    return Share(CountedLimit(name, rate, **fields), bucket_of(rate), name, key, hits)


def test_a_burst_passes_and_then_one_by_one() -> None:
    clock = Clock()
    counts = MemoryCounts(now=clock)

    def passes() -> bool:
        plan = (share(10, 3),)
        return not is_refused(plan, counts.decide(plan))

    assert [passes() for _ in range(4)] == [True, True, True, False]
    clock.ticks += TICKS // 10 - 1
    assert not passes()
    clock.ticks += 1
    assert [passes(), passes()] == [True, False]
    clock.ticks += TICKS
    assert [passes() for _ in range(4)] == [True, True, True, False]


def test_it_tells_what_is_left_and_how_long_to_wait() -> None:
    counts = MemoryCounts(now=Clock())
    (first,) = counts.decide((share(2, 2),))
    (second,) = counts.decide((share(2, 2),))
    (third,) = counts.decide((share(2, 2),))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [v.remaining for v in (first, second, third)] == [1, 0, 0]
    assert [v.wait for v in (first, second, third)] == [0, TICKS // 2, TICKS // 2]
    assert [v.is_over for v in (first, second, third)] == [False, False, True]


def test_what_one_refuses_no_other_gives() -> None:
    counts = MemoryCounts(now=Clock())
    wide, narrow = share(1, 5, name="wide"), share(1, 1, name="narrow")
    for _ in range(10):
        counts.decide((wide, narrow))
    (left,) = counts.decide((wide,))
    assert left is not None
    assert left.remaining == 3


def test_a_dry_run_refuses_nothing() -> None:
    counts = MemoryCounts(now=Clock())
    plan = (share(1, 1, shadow=True),)
    counts.decide(plan)
    (verdict,) = found = counts.decide(plan)
    assert verdict is not None
    assert verdict.is_over
    assert not is_refused(plan, found)


def test_two_descriptors_of_one_bucket_take_two() -> None:
    counts = MemoryCounts(now=Clock())
    twice = (share(1, 3), share(1, 3))
    assert not is_refused(twice, counts.decide(twice))
    assert is_refused(twice, counts.decide(twice))


def test_ten_thousand_hostile_values_cost_a_bound_and_no_other_limit() -> None:
    clock = Clock()
    counts = MemoryCounts(most=100, now=clock)
    other = (share(1, 1, name="other"),)
    counts.decide(other)
    for number in range(10_000):
        counts.decide((share(1, 1, b"%d" % number),))
    assert len(counts) == 101
    assert counts.evicted == 9_900
    assert is_refused(other, counts.decide(other))
    # The last ones are those that are kept.
    last = (share(1, 1, b"9999"),)
    assert is_refused(last, counts.decide(last))


def test_idle_buckets_are_let_go_and_others_not() -> None:
    clock = Clock()
    counts = MemoryCounts(now=clock)
    counts.decide((share(1, 2, b"old"),))
    clock.ticks += 2 * TICKS
    counts.decide((share(1, 2, b"new"),))
    counts.sweep()
    assert len(counts) == 2
    clock.ticks += 1
    counts.sweep()
    assert len(counts) == 1


def test_a_new_rate_keeps_what_was_taken() -> None:
    counts = MemoryCounts(now=Clock())
    for _ in range(3):
        counts.decide((share(1, 4),))
    (left,) = counts.decide((share(100, 10),))
    assert left is not None
    assert left.remaining == 6
