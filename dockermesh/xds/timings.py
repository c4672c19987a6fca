"""How long changes take on their way to proxies, and how much is sent; times in seconds.

The edges are Istio's (pilot/pkg/xds/monitoring.go, pkg/xds/monitoring.go), where the thing is the
same. What is counted costs a look at the clock and one of few edges, for each response.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from dockermesh.runtime.histogram import Histogram

PUSH = (0.01, 0.1, 0.5, 1, 3, 5, 10, 20, 30)
SEND = (0.01, 0.1, 1, 3, 5, 10, 20, 30)
WAIT = (0.1, 0.5, 1, 3, 5, 10, 20, 30)
SIZE = (1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)
MESH = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_MOST_OPEN = 1024
Changes = Mapping[str, float]
"""What changed, with when the first of it was known."""


@dataclass(slots=True)
class Timings:
    """What is measured; sizes are in bytes, by type URL."""

    push: dict[str, Histogram] = field(
        default_factory=lambda: defaultdict(partial(Histogram, PUSH))
    )
    size: dict[str, Histogram] = field(
        default_factory=lambda: defaultdict(partial(Histogram, SIZE))
    )
    send: Histogram = field(default_factory=lambda: Histogram(SEND))
    queue: Histogram = field(default_factory=lambda: Histogram(WAIT))
    proxy: Histogram = field(default_factory=lambda: Histogram(WAIT))
    """From a change until a proxy was sent the last of what follows, and took it."""
    mesh: dict[str, Histogram] = field(
        default_factory=lambda: defaultdict(partial(Histogram, MESH))
    )
    """From a change of this kind until the last proxy took what follows."""
    _open: deque[tuple[str, float]] = field(
        default_factory=lambda: deque(maxlen=_MOST_OPEN)
    )

    @property
    def waits_since(self) -> float | None:
        """When the oldest change was known that a proxy has not taken yet; None without one."""
        return self._open[0][1] if self._open else None

    def begin(self, changes: Changes) -> None:
        """Proxies were told of these changes, and some have to take them."""
        self._open.extend(changes.items())

    def all_taken(self, now: float) -> None:
        """No proxy has anything to take any more."""
        for kind, since in self._open:
            self.mesh[kind].add(now - since)
        self._open.clear()


class Progress:
    """How far one stream is with the oldest change that it did not take yet."""

    __slots__ = ("_changed", "_queued", "_timings", "_wrote", "began")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._changed: float | None = None
        self._queued: float | None = None
        self._wrote: float | None = None
        self.began = 0.0

    def tell(self, changed: float, now: float) -> None:
        """There is something new, which changed then."""
        if self._changed is None:
            self._changed = changed
        if self._queued is None:
            self._queued = now

    def plan(self, now: float) -> None:
        """The next response is about to be made."""
        self.began = now
        if self._queued is not None:
            self._timings.queue.add(now - self._queued)
            self._queued = None

    def wrote(self, type_url: str, size: int, start: float, end: float) -> None:
        """A response was written."""
        timings = self._timings
        timings.send.add(end - start)
        timings.push[type_url].add(end - self.began)
        timings.size[type_url].add(size)
        self._wrote = end

    def settled(self) -> None:
        """It has nothing to take any more. Who was sent nothing had nothing to wait for."""
        if self._changed is not None and self._wrote is not None:
            self._timings.proxy.add(max(0.0, self._wrote - self._changed))
        self._changed = self._wrote = None
