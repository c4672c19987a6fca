"""Looks at the mesh's traffic again and again, and what happened between two looks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from dockermesh.client.traffic.stats import By, Line, Look, lines, read_look


class Watching:
    """The looks of a window of time; rates are of all of it."""

    def __init__(
        self,
        ask: Callable[[], Mapping[str, Any]],
        window_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ask = ask
        self._window_s = window_s
        self._sleep = sleep
        self._looks: deque[Look] = deque()

    def look(self) -> Look:
        """The newest counts. In a large mesh they may be those of the look before."""
        look = read_look(self._ask())
        if not self._looks or look.at > self._looks[-1].at:
            self._looks.append(look)
        while len(self._looks) > 2 and self._looks[1].at <= look.at - self._window_s:
            self._looks.popleft()
        return look

    def once(self) -> Look:
        """Two looks, a window apart."""
        first = self.look()
        if not self._window_s:
            return first
        self._sleep(self._window_s)
        look = self.look()
        while look.at == first.at:
            # The control plane spares itself: it looks again when it may.
            self._sleep(min(1.0, self._window_s))
            look = self.look()
        return look

    def lines(self, by: By) -> list[Line]:
        """What happened in the window."""
        before = self._looks[0] if len(self._looks) > 1 else None
        return lines(self._looks[-1], before, by)

    @property
    def seconds(self) -> float:
        """How long the window really is."""
        return self._looks[-1].at - self._looks[0].at
