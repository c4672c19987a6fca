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
    has none); `where` is what it is called and where it is, as in `Registration.where`.
    """

    id: str
    fingerprint: str = ""
    host: str = ""
    container: str = ""
    group: str = ""
    status: str | None = None
    output: str = ""
    tags: frozenset[str] = frozenset()
    where: str = ""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A registration whose id is another's, and the id that it got instead (empty: none)."""

    wanted: Registration
    holder: Entry
    given: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps that do not depend on each other; `wanted` are the registrations under the ids that
    they have.
    """

    wanted: tuple[Registration, ...] = ()
    register: tuple[Registration, ...] = ()
    update: tuple[Registration, ...] = ()
    deregister: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()


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
    stay all the same. An id that belongs to another host, or to somebody who is no registrar, is
    left to it: the registration then gets its own id, if that is free.
    """
    known: Mapping[str, Entry] = {e.id: e for e in have}
    want, conflicts = _settled(want, known, host)
    steps: dict[_Step, list[Registration]] = {step: [] for step in _Step}
    for registration in want:
        steps[_step(registration, known.get(registration.id))].append(registration)

    own = [e for e in known.values() if (e.host, e.group) == (host, group)]
    return Plan(
        wanted=tuple(want),
        register=tuple(steps[_Step.REGISTER]),
        update=tuple(steps[_Step.UPDATE]),
        deregister=_gone(own, want, retained),
        conflicts=conflicts,
    )


def _settled(
    want: Iterable[Registration], known: Mapping[str, Entry], host: str
) -> tuple[list[Registration], tuple[Conflict, ...]]:
    """What is wanted under ids that may be had, and the conflicts that were in the way."""
    settled: list[Registration] = []
    conflicts: list[Conflict] = []
    for registration in want:
        holder = known.get(registration.id)
        if holder is None or not _is_anothers(holder, registration, host):
            settled.append(registration)
            continue
        other = registration.giving_way(_called(holder))
        own = known.get(other.id)
        is_free = bool(other.id) and (own is None or not _is_anothers(own, other, host))
        if is_free:
            settled.append(other)
        conflicts.append(Conflict(registration, holder, other.id if is_free else ""))
    return settled, tuple(conflicts)


def _called(holder: Entry) -> str:
    whose = f"host {holder.host}" if holder.host else "no registrar"
    return f"{holder.where} of {whose}"


def _is_anothers(entry: Entry, registration: Registration, host: str) -> bool:
    if entry.host:
        return entry.host != host
    # Nobody's mark: registrator's entry of this very container, which is to become ours, or what
    # somebody registered by hand. An id that was chosen can be either.
    is_chosen = registration.id != registration.own_id
    return is_chosen and entry.where != registration.where


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


def _step(registration: Registration, entry: Entry | None) -> _Step:
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
