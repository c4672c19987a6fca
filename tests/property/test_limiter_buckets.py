"""Of any requests at any times, no limit lets more pass than its burst and its rate; and it refuses
nobody whom they would let pass.
"""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from dockermesh.limiter.bucket import TICKS, bucket_of
from dockermesh.limiter.memory import MemoryCounts, is_refused
from dockermesh.limiter.plan import Share
from dockermesh.model.rate_limits import CountedLimit, Per, Rate

rates = st.builds(
    Rate,
    st.one_of(st.integers(1, 100), st.integers(1, 10**9)),
    st.sampled_from([Per.SECOND, Per.MINUTE, Per.DAY]),
    st.one_of(st.integers(1, 20), st.integers(1, 10**9)),
)
# What passes between two requests, and how much each asks for.
arrivals = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 1000), st.integers(0, 100 * TICKS)),
        st.integers(1, 5),
    ),
    min_size=1,
    max_size=60,
)


@given(rate=rates, asked=arrivals)
def test_never_more_than_burst_and_rate_in_any_time_and_never_less(
    rate: Rate, asked: list[tuple[int, int]]
) -> None:
    now = [0]
    counts = MemoryCounts(now=lambda: now[0])
    passed: list[tuple[int, int]] = []
    # The same in exact fractions: tokens that come at the rate, up to the burst.
    tokens, last = Fraction(rate.burst), 0
    for gap, hits in asked:
        now[0] += gap
        fresh = Fraction((now[0] - last) * rate.requests, rate.per * TICKS)
        tokens, last = min(Fraction(rate.burst), tokens + fresh), now[0]
        share = Share(CountedLimit("x", rate), bucket_of(rate), "x", b"", hits)
        is_let_in = not is_refused((share,), counts.decide((share,)))
        assert is_let_in == (tokens >= hits)
        if is_let_in:
            tokens -= hits
            passed.append((now[0], hits))

    for first in range(len(passed)):
        for end in range(first, len(passed)):
            time = passed[end][0] - passed[first][0]
            amount = sum(hits for _, hits in passed[first : end + 1])
            most = rate.burst + Fraction(time * rate.requests, rate.per * TICKS)
            assert amount <= most
