"""The difference between what Consul has and what it should have, for one group of containers.
Pure.

Invariant: an entry that is right already gives no step, so that nobody who watches Consul is woken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from dockermesh.registrar.mapping import Registration


@dataclass(frozen=True, slots=True)
class Entry:
    """A service as Consul's agent has it. `host` is its owner, `status` that of our check (None: it
    has none).
    """

    id: str
    fingerprint: str = ""
    host: str = ""
    container: str = ""
    group: str = ""
    status: str | None = None
    output: str = ""
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps that do not depend on each other."""

    register: tuple[Registration, ...] = ()
    update: tuple[Registration, ...] = ()
    deregister: tuple[str, ...] = ()
    conflicts: tuple[Registration, ...] = ()


def plan_registrations(
    have: Iterable[Entry],
    want: Collection[Registration],
    *,
    host: str,
    group: str,
    retained: Collection[str] = (),
) -> Plan:
    """What to register, which checks to update and what to deregister, so that `have` becomes
    `want`.

    Removed are only entries of this host and group; `retained` are ids of containers whose entries
    stay all the same. An id that belongs to another host is a conflict: it is reported and left.
    """
    known: Mapping[str, Entry] = {e.id: e for e in have}
    steps: dict[_Step, list[Registration]] = {step: [] for step in _Step}
    for registration in want:
        steps[_step(registration, known.get(registration.id), host)].append(
            registration
        )

    own = [e for e in known.values() if (e.host, e.group) == (host, group)]
    return Plan(
        register=tuple(steps[_Step.REGISTER]),
        update=tuple(steps[_Step.UPDATE]),
        deregister=_gone(own, want, retained),
        conflicts=tuple(steps[_Step.CONFLICT]),
    )


def _gone(
    own: Iterable[Entry], want: Iterable[Registration], retained: Iterable[str]
) -> tuple[str, ...]:
    wanted = {registration.id for registration in want}
    # Entries know the short ids of their containers.
    stays = {container_id[:12] for container_id in retained}
    return tuple(
        sorted(e.id for e in own if e.id not in wanted and e.container not in stays)
    )


class _Step(Enum):
    """What a registration needs."""

    NOTHING = auto()
    REGISTER = auto()
    UPDATE = auto()
    CONFLICT = auto()


def _step(registration: Registration, entry: Entry | None, host: str) -> _Step:
    if entry is not None and entry.host not in ("", host):
        return _Step.CONFLICT
    if entry is None or _differs(entry, registration):
        return _Step.REGISTER
    return _Step.UPDATE if _health_differs(entry, registration) else _Step.NOTHING


def _differs(entry: Entry, registration: Registration) -> bool:
    lost_check = registration.health is not None and entry.status is None
    return (
        entry.fingerprint != registration.fingerprint
        or entry.tags != set(registration.tags)
        or lost_check
    )


def _health_differs(entry: Entry, registration: Registration) -> bool:
    return (
        registration.health is not None and entry.status != registration.health.status
    )
