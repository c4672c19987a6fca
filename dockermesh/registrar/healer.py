"""Takes the steps that `heal.py` plans, each when it is due, and none that is wrong by then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

import structlog

from dockermesh.docker.async_engine import EngineRefusedError
from dockermesh.errors import EngineError
from dockermesh.registrar.container import Container
from dockermesh.registrar.heal import Action, Past, Verb, plan_healing
from dockermesh.registrar.mapping import MappingFinding
from dockermesh.registrar.seen import Notes, Seen
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

Done = Callable[[str, str], None]
_REFUSED_S = 60.0
"""How long a container is left alone that the engine refuses to touch."""


class Hands(Protocol):
    """What healing asks of the engine."""

    async def start(self, container: str) -> None: ...
    async def restart(self, container: str, grace: int) -> None: ...
    async def stop(self, container: str, grace: int) -> None: ...


class Eyes(Protocol):
    """What healing asks of who keeps `Seen` up to date."""

    async def refresh(self, group: str) -> None:
        """Have a group's containers inspected now. Raises EngineError."""

    def settled(self, container_id: str) -> None:
        """A step was taken, or turned out to be wrong."""

    def disregard(self, container_id: str) -> None:
        """What the container was told while something was done to it was nobody's wish."""


class Healer:
    """Heals one container at a time each.

    Invariant: whether a step is due is decided by what the engine says right before it is taken,
    and what it does to a container is never taken for somebody else's wish.
    """

    def __init__(
        self,
        engine: Hands,
        seen: Seen,
        notes: Notes,
        eyes: Eyes,
        done: Done = lambda role, verb: None,
    ) -> None:
        """`done` is told the role of each container that was healed, and by what."""
        self._engine = engine
        self._done = done
        self._seen = seen
        self._notes = notes
        self._eyes = eyes
        self.acting: set[str] = set()
        """Ids of containers to which something is being done."""
        self._attested: Mapping[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, Backoff] = {}

    def heal(self, members: Iterable[Container], attested: Mapping[str, int]) -> None:
        """Begin what these containers of a group need; `attested` as in `Past`."""
        members, self._attested = list(members), attested
        plan = plan_healing(members, self._past())
        self._rest({c.id for c in members} - {a.container.id for a in plan})

        for action in plan:
            target = action.container
            if action.verb is Verb.REPORT:
                self._notes.say(MappingFinding(target.name, action.reason))
            elif target.id not in self._tasks:
                taking = self._take(action)
                self._tasks[target.id] = asyncio.create_task(
                    taking, name=f"heal {target.name}"
                )

    def forget(self, container_id: str) -> None:
        """The container is gone."""
        self._attempts.pop(container_id, None)

    def close(self) -> None:
        """Take no further step."""
        for task in self._tasks.values():
            task.cancel()

    def _rest(self, healthy: Iterable[str]) -> None:
        for container_id in healthy:
            self._attempts.pop(container_id, None)

    async def _take(self, action: Action) -> None:
        target = action.container
        try:
            await asyncio.sleep(max(self._wait_of(target.id), action.delay))
            await self._act(action)
        except EngineRefusedError as error:
            self._notes.say(
                MappingFinding(target.name, f"it cannot be healed: {error.what}")
            )
            await asyncio.sleep(_REFUSED_S)
        except EngineError as error:
            log.warning(
                "healing failed, will try again",
                container=target.name,
                error=error.what,
            )
        finally:
            self._tasks.pop(target.id, None)
            self._eyes.settled(target.id)

    async def _act(self, action: Action) -> None:
        target = action.container
        self.acting.add(target.id)
        try:
            # Another event may have come meanwhile, or the user may have stopped it.
            await self._eyes.refresh(target.group)
            if not self._is_still_due(action):
                return

            verb, reason = action.verb.value, action.reason
            log.info("healing", container=target.name, verb=verb, reason=reason)
            told, run = target.id in self._seen.stopping, self._run_of(target.id)
            await self._do(action)
            self._done(target.role or "app", verb)
            # Before anybody judges by it: this run has another start.
            await self._eyes.refresh(target.group)
            # Told by nobody else, or a run that began meanwhile, which nobody wanted to end.
            is_ours = not told or self._run_of(target.id) != run
            if action.verb is Verb.STOP and is_ours:
                self._eyes.disregard(target.id)
        finally:
            self.acting.discard(target.id)

    def _run_of(self, container_id: str) -> str:
        found = self._seen.containers.get(container_id)
        return found.incarnation if found is not None else ""

    def _past(self) -> Past:
        seen = self._seen
        return Past(
            seen.stopping,
            seen.by_hand,
            seen.by_us,
            seen.engine_started,
            self._attested,
        )

    def _wait_of(self, container_id: str) -> float:
        """Nothing at the first attempt."""
        known = self._attempts.get(container_id)
        if known is None:
            self._attempts[container_id] = Backoff(0.5, 4.0)
            return 0.0
        return known.next()

    def _is_still_due(self, action: Action) -> bool:
        members = self._seen.members(action.container.group)
        fresh = plan_healing(members, self._past())
        wanted = (action.container.id, action.verb)
        return any((a.container.id, a.verb) == wanted for a in fresh)

    def _do(self, action: Action) -> Awaitable[None]:
        target = action.container
        if action.verb is Verb.START:
            return self._engine.start(target.id)
        if action.verb is Verb.STOP:
            return self._engine.stop(target.id, action.grace)
        return self._engine.restart(target.id, action.grace)
