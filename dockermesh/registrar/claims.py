"""Who has a service id when several containers of a host ask for it. Pure but for the book that is
kept.

A container's own id, which holds its name, is always its own. An id that was chosen (`SERVICE_ID`)
belongs to the oldest of those that run and chose it; whoever comes later is registered under its
own id. So nobody's registration is replaced by a container that only says the same id, and the
answer is the same after any restart of the registrar.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from dockermesh.registrar.container import Container
from dockermesh.registrar.mapping import map_container
from dockermesh.registrar.options import Options


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """A container that asks for an id; the least one has it."""

    is_chosen: bool
    created: int
    container_id: str
    name: str = ""


Claims = Mapping[str, frozenset[Claim]]
"""Who of a group asks for which ids."""


def claims_of(
    containers: Collection[Container],
    options: Options,
    *,
    stopping: Collection[str] = (),
    group: str = "",
) -> Claims:
    """What the running containers (of one `group` if given) ask for."""
    by_id = {c.id: c for c in containers}
    found: dict[str, set[Claim]] = defaultdict(set)
    for container in containers:
        if group not in ("", container.group) or container.id in stopping:
            continue
        if not (container.state.running or container.state.restarting):
            continue
        mapped, _ = map_container(container, by_id.get(container.joined), options)
        for made in mapped:
            for service_id in (made.own_id, made.id):
                is_chosen = service_id != made.own_id
                found[service_id].add(_claim(container, is_chosen=is_chosen))
    return {service_id: frozenset(asking) for service_id, asking in found.items()}


def _claim(container: Container, *, is_chosen: bool) -> Claim:
    return Claim(is_chosen, container.created, container.id, container.name)


def holders_of(claims: Claims) -> dict[str, Claim]:
    """Who has each id, where nobody else asks."""
    return {service_id: min(asking) for service_id, asking in claims.items()}


class ClaimBook:
    """The claims of all groups of a host.

    Until each of the host's groups was seen once, nobody can tell who is the oldest: `is_settled`.
    """

    def __init__(self) -> None:
        self._groups: dict[str, Claims] = {}
        self._by_id: dict[str, dict[str, frozenset[Claim]]] = {}
        self._unseen: set[str] | None = None
        self._waiting: set[str] = set()

    def expect(self, groups: Iterable[str]) -> None:
        """The groups that there are; only the first call says what has to be waited for."""
        present = set(groups)
        unseen = present - self._groups.keys()
        self._unseen = unseen if self._unseen is None else self._unseen & present

    def take(self, group: str, claims: Claims) -> set[str]:
        """The claims of a group as they are now; the other groups for which this changes who has an
        id.
        """
        before = self._groups.get(group, {})
        self._groups[group] = claims
        affected: set[str] = set()
        for service_id in before.keys() | claims.keys():
            old, new = before.get(service_id), claims.get(service_id)
            if old != new:
                affected |= self._put(group, service_id, new)
        if not claims:
            # A group that is gone comes by here once more, and must not stay for ever.
            del self._groups[group]
        return (affected | self._released(group)) - {group}

    def _put(
        self, group: str, service_id: str, asking: frozenset[Claim] | None
    ) -> set[str]:
        groups = self._by_id.setdefault(service_id, {})
        holder = self._holder(service_id)
        groups.pop(group, None)
        if asking:
            groups[group] = asking
        others = set(groups) if self._holder(service_id) != holder else set()
        if not groups:
            del self._by_id[service_id]
        return others

    def _released(self, group: str) -> set[str]:
        """Those that waited for the last group to be seen, if this was it."""
        if self._unseen is None:
            return set()
        self._unseen.discard(group)
        if self._unseen:
            return set()
        released, self._waiting = self._waiting, set()
        return released

    def is_settled(self, group: str) -> bool:
        """Whether who has the group's ids is known. If not, `take` names the group once it is."""
        is_plain = not any(
            claim.is_chosen
            for asking in self._groups.get(group, {}).values()
            for claim in asking
        )
        if is_plain or self._unseen == set():
            return True
        self._waiting.add(group)
        return False

    def holders(self, group: str) -> dict[str, Claim]:
        """Who has the ids that the group asks for."""
        found = {i: self._holder(i) for i in self._groups.get(group, {})}
        return {i: claim for i, claim in found.items() if claim is not None}

    def _holder(self, service_id: str) -> Claim | None:
        asking = self._by_id.get(service_id, {}).values()
        return min((claim for claims in asking for claim in claims), default=None)
