"""The difference between what Consul has and what it should have, for one group of containers.
Pure.

Invariant: an entry that is right already gives no step, so that nobody who watches Consul is woken.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

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
    want: Iterable[Registration],
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
    register, update, conflicts = [], [], []
    wanted = set()
    for registration in want:
        wanted.add(registration.id)
        entry = known.get(registration.id)
        if entry is not None and entry.host not in ("", host):
            conflicts.append(registration)
        elif entry is None or _differs(entry, registration):
            register.append(registration)
        elif registration.health and _health_differs(entry, registration):
            update.append(registration)
    short = {i[:12] for i in retained}
    gone = sorted(
        e.id
        for e in known.values()
        if e.host == host and e.group == group and e.id not in wanted and e.container not in short
    )
    return Plan(tuple(register), tuple(update), tuple(gone), tuple(conflicts))


def _differs(entry: Entry, registration: Registration) -> bool:
    lost_check = registration.health is not None and entry.status is None
    return (
        entry.fingerprint != registration.fingerprint
        or entry.tags != set(registration.tags)
        or lost_check
    )


def _health_differs(entry: Entry, registration: Registration) -> bool:
    return registration.health is not None and entry.status != registration.health.status
