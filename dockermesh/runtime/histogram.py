"""Counts of what was measured, by upper edges: what Prometheus' histograms are made of."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate


class Histogram:
    """Counts by upper edge, in rising order; what is above the last is counted, too."""

    __slots__ = ("_counts", "_edges", "total")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one; a value that is an edge is below it."""
        self._counts[bisect_left(self._edges, value)] += 1
        self.total += value

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Each edge as Go writes it, with how many are not above it."""
        names = [f"{edge:g}" for edge in self._edges]
        return [*zip([*names, "+Inf"], accumulate(self._counts), strict=True)]
