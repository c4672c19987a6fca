"""Holds back what a KV that lost its data says of workloads. Pure: time is passed in.

Without its record a workload has neither a proxy to be let in nor mutual TLS: where records are
lost, requests under STRICT fail. So where none is left, or Consul went back in time, those that are
missing are kept until they are written again or HOLD is over. One record that goes while others
stay was taken away by its registrar, and goes at once; so do all of them where the registrar's
mark is left beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dockermesh.model.workload import Workload

HOLD = 60.0
"""Registrars compare everything every 30 s: by then they have written what they know."""
MINIMUM = 2
"""The last one alone is taken away by its registrar more often than lost."""
_NONE: Mapping[str, Workload] = MappingProxyType({})


class RecordsGuard:
    """Which workloads there are, after what the KV says."""

    def __init__(self) -> None:
        self._found: Mapping[str, Workload] = _NONE
        self._kept: Mapping[str, Workload] = _NONE
        self._until = float("-inf")

    @property
    def holding(self) -> bool:
        """Whether records are missing that are kept."""
        return bool(self._kept.keys() - self._found.keys())

    def registry_reset(self, now: float) -> None:
        """The registry's index fell: missing records prove nothing until HOLD is over."""
        self._kept, self._until = self.workloads(now), now + HOLD

    def take(
        self, found: Mapping[str, Workload], now: float, *, are_kept: bool = False
    ) -> None:
        """The KV has these records; `are_kept`: and the mark, which would be lost with them."""
        is_loss = len(self._found) >= MINIMUM and not found and not are_kept
        if is_loss and now >= self._until:
            self._kept, self._until = self._found, now + HOLD
        self._found = found

    def workloads(self, now: float) -> Mapping[str, Workload]:
        """The workloads that count."""
        if now >= self._until or not self.holding:
            self._kept = _NONE
            return self._found
        return MappingProxyType({**self._kept, **self._found})

    def next_due(self) -> float | None:
        """When `workloads` changes with time alone."""
        return self._until if self.holding else None
