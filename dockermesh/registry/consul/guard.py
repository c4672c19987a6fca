"""Holds back what a registry that lost its data says. Pure: time is passed in.

A registry that was restarted empty, or is restored from an old snapshot, answers correctly and
wrongly: everything is gone. Rules, in terms of *losses* (endpoints absent from the answer; a
critical endpoint is present, so never lost):

1. An emptied service is announced GRACE late: it answers 503 either way, and in that time it shows
   whether others follow. Losing some of a service's endpoints is announced at once: no request may
   go to a stopped replica.
2. If within WINDOW more than half of all endpoints are lost, of at least two services (or of the
   only one), what is lost is kept until it comes back or HOLD is over.
3. A loss is *confirmed*, so never held, when the endpoint's workload record is gone from Consul's
   KV while other records are still there: the registrar took it away. If the registry went back in
   time (its index fell), or no record is left at all, nor the registrar's mark, that proves
   nothing.
4. Meshes of fewer than MINIMUM endpoints are not guarded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sized
from dataclasses import dataclass
from typing import Protocol

from dockermesh.registry.consul.assembly import Instances

GRACE = 0.3
WINDOW = 5.0
HOLD = 30.0
MINIMUM = 4


class Records(Container[object], Sized, Protocol):
    """The names of the workloads that Consul's KV holds."""


@dataclass(slots=True)
class _Pending:
    instances: Instances
    lost: int
    due: float


class DropGuard:
    """Decides, per Consul service, when a loss of endpoints is let through."""

    def __init__(self) -> None:
        self._accepted: dict[str, Instances] = {}
        self._total = 0
        self._pending: dict[str, _Pending] = {}
        self._partial: deque[tuple[float, str, int]] = deque()
        self._held = False
        self._reset_at = float("-inf")
        self.believes_none = False
        """Whether no record at all proves something: the registrar's mark is there."""

    @property
    def holding(self) -> bool:
        """Whether more than half of the endpoints vanished and are kept."""
        return self._held

    def registry_reset(self, now: float) -> None:
        """The registry's index fell: until HOLD is over, missing records prove nothing."""
        self._reset_at = now

    def offer(
        self, name: str, new: Instances, records: Records, now: float
    ) -> list[tuple[str, Instances]]:
        """What to announce after the registry said that the service `name` has these instances."""
        lost = _lost(self._accepted.get(name, ()), new)
        if not lost or self._total < MINIMUM or self._confirmed(lost, records, now):
            return [self._accept(name, new)]
        if self._held and _adds(self._accepted[name], new):
            # New addresses: the registry knows this service again.
            return [self._accept(name, new)]

        if new and not self._held:
            # Announced already, but it counts when others follow.
            self._partial.append((now, name, len(lost)))
            announced = [self._accept(name, new)]
            self._judge(now)
            return announced

        known = self._pending.get(name)
        due = known.due if known else now + (HOLD if self._held else GRACE)
        self._pending[name] = _Pending(new, len(lost), due)
        self._judge(now)
        return []

    def settle(self, records: Records, now: float) -> list[tuple[str, Instances]]:
        """What to announce because time passed, or because the workload records changed."""
        announced = [
            self._accept(name, pending.instances)
            for name, pending in list(self._pending.items())
            if now >= pending.due
            or self._confirmed(
                _lost(self._accepted.get(name, ()), pending.instances), records, now
            )
        ]
        self._held = self._held and bool(self._pending)
        return announced

    def next_due(self) -> float | None:
        """When `settle` should be called next."""
        return min((p.due for p in self._pending.values()), default=None)

    def _judge(self, now: float) -> None:
        while self._partial and self._partial[0][0] < now - WINDOW:
            self._partial.popleft()
        if self._held or not self._pending:
            return

        if self._is_too_much():
            self._held = True
            for pending in self._pending.values():
                pending.due = now + HOLD

    def _is_too_much(self) -> bool:
        """Rule 2: more than half of what there was, in more than one service."""
        already_gone = sum(n for _, _, n in self._partial)
        lost = already_gone + sum(p.lost for p in self._pending.values())
        services = {name for _, name, _ in self._partial} | set(self._pending)
        is_half = 2 * lost > self._total + already_gone
        return is_half and len(services) >= min(2, len(self._accepted))

    def _accept(self, name: str, instances: Instances) -> tuple[str, Instances]:
        self._pending.pop(name, None)
        self._total += len(instances) - len(self._accepted.pop(name, ()))
        if instances:
            self._accepted[name] = instances
        self._held = self._held and bool(self._pending)
        return name, instances

    def _confirmed(self, lost: Instances, records: Records, now: float) -> bool:
        # No record at all is what a store that lost its data says.
        if (not len(records) and not self.believes_none) or now - self._reset_at < HOLD:
            return False
        return all(
            i.endpoint.workload and i.endpoint.workload not in records for i in lost
        )


def _lost(old: Instances, new: Instances) -> Instances:
    # By address, not by id: registered again under another id is no loss.
    present = {(i.endpoint.address, i.endpoint.port) for i in new}
    return tuple(i for i in old if (i.endpoint.address, i.endpoint.port) not in present)


def _adds(old: Instances, new: Instances) -> bool:
    return bool(_lost(new, old))
