"""What the registrar knows of an engine at one moment: containers, stop signals, what was said."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from dockermesh.registrar.container import Container
from dockermesh.registrar.mapping import Skipped

log = structlog.get_logger(__name__)


class Seen:
    """Containers as they were last inspected, by id.

    `stopping` holds when a container got its stop signal (nanoseconds since the epoch): it is
    treated as gone, until it has ended or was started again.
    """

    def __init__(self) -> None:
        self.containers: dict[str, Container] = {}
        self.stopping: dict[str, int] = {}

    def take(self, container: Container) -> None:
        """A container as it is now."""
        self.containers[container.id] = container
        told = self.stopping.get(container.id, 0)
        if told and (not container.state.running or container.state.started > told):
            del self.stopping[container.id]

    def forget(self, container_id: str) -> Container | None:
        """A container that is gone; what was known of it."""
        self.stopping.pop(container_id, None)
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

    def say(self, *skipped: Skipped) -> None:
        """Log what has not been said yet."""
        for item in skipped:
            if (item.container, item.reason) not in self._said:
                self._said.add((item.container, item.reason))
                tell = log.warning if item.is_warning else log.info
                tell("left out", container=item.container, reason=item.reason)

    def forget(self, name: str) -> None:
        """A container of this name is gone: another one may be told of again."""
        self._said = {said for said in self._said if said[0] != name}
