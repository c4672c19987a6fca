"""Waits grow up to a cap, with jitter below and never above."""

from __future__ import annotations

import pytest

from dockermesh.runtime.backoff import Backoff


def test_without_jitter_the_delays_are_told_exactly() -> None:
    backoff = Backoff(0.5, 3.0, jitter=0.0)
    assert [backoff.next() for _ in range(4)] == [0.5, 1.0, 2.0, 3.0]
    assert backoff.failures == 4


def test_it_begins_anew_once_it_worked() -> None:
    backoff = Backoff(0.5, 3.0, jitter=0.0)
    backoff.next(), backoff.next()
    backoff.reset()
    assert (backoff.failures, backoff.next()) == (0, 0.5)


@pytest.mark.parametrize("factor", [1.4, 2.0])
def test_jitter_takes_at_most_its_part_of_a_delay(factor: float) -> None:
    backoff = Backoff(1.0, 8.0, factor=factor, jitter=0.25)
    delays = [backoff.next() for _ in range(500)]
    assert all(6.0 <= delay <= 8.0 for delay in delays[10:])
    assert 0.75 <= delays[0] <= 1.0
