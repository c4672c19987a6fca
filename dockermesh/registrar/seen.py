"""What the registrar knows of an engine at one moment: containers, stop signals, what was said."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from dockermesh.registrar.container import Container
from dockermesh.registrar.mapping import MappingFinding

log = structlog.get_logger(__name__)


class Seen:
    """Containers as they were last inspected, by id.

    `stopping` holds when a container got its stop signal (nanoseconds since the epoch): it is
    treated as gone, until it has ended or was started again. `by_hand` are those that ended so,
    `by_us` those that the registrar ended.
    """

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.stopping: dict[str, int] = {}
        # With the start of the run that ended so: another one may have come and gone unseen.
        self.by_hand: dict[str, int] = {}
        self.by_us: set[str] = set()
        self.engine_started = 0

    def take_engine(self, started: int) -> None:
        """When the engine came up, in nanoseconds since the epoch; 0 if it does not tell.

        What a stopping engine told all containers was nobody's wish.
        """
        if started != self.engine_started:
            self.engine_started = started
            self.stopping.clear()
            self.by_hand.clear()
            self.by_us.clear()

    def take(self, container: Container) -> None:
        """A container as it is now."""
        self.containers[container.id] = container
        state, told = container.state, self.stopping.get(container.id, 0)
        if state.running or self.by_hand.get(container.id, 0) < state.started:
            self.by_hand.pop(container.id, None)
        if state.running:
            self.by_us.discard(container.id)
        elif told and told >= state.started:
            self.by_hand[container.id] = state.started
        if told and (not state.running or state.started > told):
            del self.stopping[container.id]

    def took_down(self, container_id: str) -> None:
        """The registrar ended a container by itself: nobody else meant it."""
        self.by_hand.pop(container_id, None)
        self.stopping.pop(container_id, None)
        known = self.containers.get(container_id)
        if known is not None and not known.state.running:
            self.by_us.add(container_id)

    def forget(self, container_id: str) -> Container | None:
        """A container that is gone; what was known of it."""
        self.stopping.pop(container_id, None)
        self.by_hand.pop(container_id, None)
        self.by_us.discard(container_id)
        return self.containers.pop(container_id, None)

    def members(self, group: str) -> list[Container]:
        """The containers of a group."""
        return [c for c in self.containers.values() if c.group == group]

    def owners(self, members: Iterable[Container]) -> list[Container]:
        """Containers outside of the group whose networks its members joined."""
        members = list(members)
        ids = {c.joined for c in members} - {c.id for c in members}
        return [self.containers[i] for i in ids if i in self.containers]

    def joined_to(self, container_id: str) -> list[Container]:
        """The containers in the network of this one."""
        return [c for c in self.containers.values() if c.joined == container_id]

    def is_current(self, container: Container) -> bool:
        """Whether this run of the container is the present one, and goes on."""
        now = self.containers.get(container.id)
        return (
            now is not None
            and now.incarnation == container.incarnation
            and now.state.running
        )


class Notes:
    """What was left out and why, logged once for each container."""

    def __init__(self) -> None:
        self._said: set[tuple[str, str]] = set()

    def say(self, *skipped: MappingFinding) -> None:
        """Log what has not been said yet."""
        for item in skipped:
            if (item.container, item.reason) not in self._said:
                self._said.add((item.container, item.reason))
                tell = log.warning if item.is_warning else log.info
                tell("left out", container=item.container, reason=item.reason)

    def forget(self, name: str) -> None:
        """A container of this name is gone: another one may be told of again."""
        self._said = {said for said in self._said if said[0] != name}
