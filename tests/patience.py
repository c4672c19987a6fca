"""How long tests wait: deadlines are said for a quiet machine, and a busy one gets several times
that.

Invariant: a deadline is there so that a test ends when something never happens; it is no
measurement. What is to be fast is proven by facts (what was sent, what was counted), or recorded as
a figure.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SLACK = float(os.environ.get("DOCKERMESH_TEST_SLACK", "10"))
"""Continuous integration has been five to eight times slower than a laptop."""


def until(
    read: Callable[[], T], what: str, seconds: float = 30, every: float = 0.05
) -> T:
    """The first true value of `read`; after the deadline an AssertionError that says what did not
    happen.

    A `read` that raises an OSError has nothing to say yet: connections break while something is
    being replaced.
    """
    limit = seconds * SLACK
    deadline = time.monotonic() + limit
    while True:
        last: object
        try:
            last = value = read()
            if value:
                return value
        except OSError as error:
            last = error
        assert time.monotonic() < deadline, (
            f"not within {limit:g} s: {what} (last: {last!r})"
        )
        time.sleep(every)
