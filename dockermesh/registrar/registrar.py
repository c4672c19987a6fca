"""The live registrar: follows the engine's events and keeps a sink and the pods as they should be.

Level-triggered: an event only says which container to look at again, and everything is compared
again on every connect and periodically. Invariant: the events of one group are handled one after
the other, and `run` never ends.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

import structlog

from dockermesh.docker.events import Event, EventStream
from dockermesh.docker.summary import name_of
from dockermesh.errors import DockermeshError, EngineError
from dockermesh.model.contract import LABEL_ROLE
from dockermesh.registrar.attached import AttachedFile
from dockermesh.registrar.attest import Attestor
from dockermesh.registrar.checker import Checker
from dockermesh.registrar.claims import ClaimBook, claims_of
from dockermesh.registrar.container import (
    Container,
    group_of,
    parse_container,
    parse_time,
)
from dockermesh.registrar.desired import desired_state
from dockermesh.registrar.healer import Hands, Healer
from dockermesh.registrar.mapping import MappingFinding
from dockermesh.registrar.node_mode import (
    Images,
    as_workload,
    is_asked_for,
    workload_name,
)
from dockermesh.registrar.options import Options
from dockermesh.registrar.script_checks import Commands
from dockermesh.registrar.seen import Notes, Seen
from dockermesh.registrar.sink import Sink
from dockermesh.registrar.stop_signals import is_stop_signal
from dockermesh.registrar.workers import KeyedWorkers
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

# Seconds; events can be lost where the engine is busy, and Docker does not say so.
RESYNC = 30.0
# Every so many resyncs all containers are inspected, whatever the listing says of them.
_FULL_EVERY = 10
# Seconds that what a container was before (in node mode, or not) outlives what it is now.
_LEFT_S = 3.0
# Seconds, beyond Docker's own 10 of grace: what is still up then ignores the signal.
_MIN_STOP_WAIT = 30.0
_HEALTH = re.compile(r"\(([A-Za-z: ]+)\)")


class Engine(Hands, Commands, Protocol):
    """What the registrar asks of Docker: reading, and what healing needs."""

    async def list_containers(self) -> list[dict[str, Any]]: ...
    async def inspect(self, container: str) -> dict[str, Any] | None: ...
    async def image_config(self, image: str) -> dict[str, Any] | None: ...
    async def logs(self, container: str, since: int) -> str: ...
    async def started(self) -> str: ...
    async def subscribe(self, since: int = 0) -> EventStream: ...


class Registrar:
    """Registers the containers of one engine in one sink."""

    def __init__(
        self,
        engine: Engine,
        sink: Sink,
        options: Options,
        *,
        heal: bool = True,
        resync: float = RESYNC,
        tls: Callable[[], ssl.SSLContext] | None = None,
        told: Callable[[str], None] = lambda _problem: None,
        attached: AttachedFile | None = None,
        healed: Callable[[str, str], None] = lambda _role, _verb: None,
    ) -> None:
        """`tls` gives what proxies are asked for their health with, where they take no
        plaintext; `told` is given why the engine cannot be followed, and an empty text when it
        can again; `healed` the role of each container that was healed, and by what.
        """
        self._told = told
        self._engine = engine
        self._sink = sink
        self._options = options
        self._resync = resync
        self._attached = attached or AttachedFile()
        self._left: dict[str, float] = {}
        self._images = Images(engine.image_config)
        self._seen = Seen()
        self._notes = Notes()
        self._claims = ClaimBook()
        self._summaries: dict[str, object] = {}
        self._dirty: dict[str, set[str]] = {}
        self._last_event = 0
        self._full = True
        self._sync_wanted = asyncio.Event()

        self._workers = KeyedWorkers(self._handle)
        self._checker = Checker(self._workers.mark, tls, engine)
        self._attestor = Attestor(
            engine.logs, self._seen, self._notes, self._workers.mark
        )
        self._healer = (
            Healer(engine, self._seen, self._notes, self, healed) if heal else None
        )
        self._deferred: dict[str, list[Event]] = {}

    async def run(self) -> NoReturn:
        """Follow the engine for ever; cancel to stop. Entries stay in the sink: the services
        outlive the registrar.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sink.run(self._request_resync))
                tasks.create_task(self._follow())
                tasks.create_task(self._keep_synced())
                tasks.create_task(self._attached.follow(self._request_resync))
        finally:
            self._attestor.close()
            if self._healer is not None:
                self._healer.close()
            await self._workers.close()
            await self._checker.close()

        raise AssertionError("unreachable: the tasks never end")

    def _request_resync(self) -> None:
        self._full = True
        self._sync_wanted.set()

    # -- following the engine

    async def _follow(self) -> None:
        backoff = Backoff(0.1, 5.0)
        connected = True
        while True:
            try:
                # Subscribe first, list after: what happens in between is then seen twice rather
                # than never.
                stream = await self._engine.subscribe(self._last_event)
                self._seen.take_engine(parse_time(await self._engine.started()))
                connected = True
                self._told("")
                self._request_resync()
                try:
                    async for event in stream:
                        backoff.reset()
                        self._on_event(event)
                finally:
                    await stream.close()
                log.warning("the engine ended the stream of events; subscribing again")
            except EngineError as error:
                if connected:
                    log.warning(
                        "the engine is away; trying again until it is back",
                        error=error.what,
                    )
                    self._told(
                        f"The registrar cannot follow the engine ({error.what}): containers that"
                        " start or end meanwhile are not seen, and pods not healed."
                    )
                connected = False

            await asyncio.sleep(backoff.next())

    def _on_event(self, event: Event) -> None:
        self._last_event = max(self._last_event, event.time)
        known = self._seen.containers.get(event.container)
        if event.action == "kill":
            self._on_kill(event, known)
            return

        group = known.group if known else group_of(event.container, event.attributes)
        self._look_at(event.container, group)

    def _on_kill(self, event: Event, known: Container | None) -> None:
        if self._healer is not None and event.container in self._healer.acting:
            # Ours, or the user's: what became of it tells.
            self._deferred.setdefault(event.container, []).append(event)
        elif known is None or event.container in self._seen.by_us:
            return
        elif _is_told_to_stop(known, event):
            self._expect_stop(known, event.time)

    # -- what healing asks for

    async def refresh(self, group: str) -> None:
        """Have a group's containers inspected now. Raises EngineError."""
        ids = [container.id for container in self._seen.members(group)]
        await asyncio.gather(*(self._inspect(i, group) for i in ids))

    def disregard(self, container_id: str) -> None:
        """Forget what a container was told while something was done to it."""
        self._deferred.pop(container_id, None)
        self._seen.took_down(container_id)

    def settled(self, container_id: str) -> None:
        """A step was taken, and its container inspected: signals that it got meanwhile are those
        of its present run, or are over.
        """
        for event in self._deferred.pop(container_id, ()):
            self._on_kill(event, self._seen.containers.get(container_id))
        self._look_again(container_id)

    def _expect_stop(self, container: Container, when: int) -> None:
        self._seen.stopping[container.id] = when
        self._workers.mark(container.group)
        wait = max(_MIN_STOP_WAIT, container.stop_timeout + 5.0)
        asyncio.get_running_loop().call_later(
            wait, self._stop_overdue, container.id, when
        )

    def _stop_overdue(self, container_id: str, when: int) -> None:
        # It got the signal and runs still: it serves, so it is listed again.
        if self._seen.stopping.get(container_id) == when:
            del self._seen.stopping[container_id]
            self._look_again(container_id)

    def _look_again(self, container_id: str) -> None:
        container = self._seen.containers.get(container_id)
        if container is not None:
            self._look_at(container_id, container.group)

    def _look_at(self, container_id: str, group: str) -> None:
        """Have the container inspected, and its group handled, soon."""
        self._dirty.setdefault(group, set()).add(container_id)
        self._workers.mark(group)

    # -- comparing everything

    async def _keep_synced(self) -> None:
        backoff = Backoff(0.2, 5.0)
        turn = 0
        while True:
            try:
                await asyncio.wait_for(self._sync_wanted.wait(), self._resync)
            except TimeoutError:
                turn += 1

            self._sync_wanted.clear()
            full, self._full = self._full or turn % _FULL_EVERY == 0, False

            try:
                await self._reconcile(full=full)
                backoff.reset()
            except DockermeshError as error:
                log.warning(
                    "cannot compare now, will try again",
                    error=error.what,
                    where=error.where,
                )
                await asyncio.sleep(backoff.next())
                self._request_resync()

    async def _reconcile(self, *, full: bool) -> None:
        listing = await self._engine.list_containers()
        groups = {self._group_of(c) for c in listing}
        self._claims.expect(groups)
        # Containers that went while no stream was open left no event.
        present = {c["Id"] for c in listing}
        for container in list(self._seen.containers.values()):
            if container.id not in present:
                self._look_at(container.id, container.group)
        for summary in listing:
            self._compare(summary, full=full)

        # What others did to our entries meanwhile is found out before they are compared.
        await self._sink.refresh()
        await self._sink.retain(groups)
        for group in groups:
            self._workers.mark(group)

    def _compare(self, summary: Mapping[str, Any], *, full: bool) -> None:
        container_id = summary["Id"]
        digest = _digest(summary)
        is_known = container_id in self._seen.containers
        if full or not is_known or self._summaries.get(container_id) != digest:
            self._look_at(container_id, self._group_of(summary))
        self._summaries[container_id] = digest

    def _group_of(self, summary: Mapping[str, Any]) -> str:
        """The group of a container of a listing: as it is known, else as its labels have it."""
        known = self._seen.containers.get(summary["Id"])
        if known is not None:
            return known.group
        labels = summary.get("Labels") or {}
        name = name_of(summary)
        if is_asked_for(name, labels, self._attached.now):
            return workload_name(name, labels)
        return group_of(summary["Id"], labels)

    # -- one group

    async def _handle(self, group: str) -> None:
        dirty = self._dirty.pop(group, set())
        try:
            await asyncio.gather(*(self._inspect(i, group) for i in dirty))
        except EngineError:
            self._dirty.setdefault(group, set()).update(dirty)
            raise

        if self._is_left(group):
            return

        members = self._seen.members(group)
        self._attestor.look(members)
        if self._healer is not None:
            self._healer.heal(members, self._attestor.times)
        scene = [*members, *self._seen.owners(members)]
        claims = claims_of(
            scene, self._options, stopping=self._seen.stopping, group=group
        )
        for other in self._claims.take(group, claims):
            self._workers.mark(other)
        if not (self._claims.is_settled(group) and self._attestor.knows(members)):
            return

        desired = desired_state(
            scene,
            self._options,
            stopping=self._seen.stopping,
            tokens=self._attestor.tokens,
            answers=self._checker.results,
            holders=self._claims.holders(group),
            group=group,
        )
        self._notes.say(*desired.skipped)
        self._checker.follow(group, desired.registrations)
        await self._sink.apply(group, desired)

    def _is_left(self, group: str) -> bool:
        """Whether a container has left the group a moment ago. Its new group is to take it up
        first: whoever calls it must find one of both.
        """
        until = self._left.get(group)
        if until is None or asyncio.get_running_loop().time() < until:
            return until is not None
        del self._left[group]
        return False

    async def _inspect(self, container_id: str, group: str) -> None:
        data = await self._engine.inspect(container_id)
        before = self._seen.containers.get(container_id)
        if data is None:
            self._forget(container_id)
        else:
            self._take(await self._parsed(data), data, group)

        # What joined its network depends on it, whatever group that is of.
        if self._seen.containers.get(container_id) != before:
            for other in self._seen.joined_to(container_id):
                if other.group != group:
                    self._workers.mark(other.group)

    async def _parsed(self, data: Mapping[str, Any]) -> Container:
        container = parse_container(data)
        now = self._attached.now
        if not is_asked_for(container.name, container.labels, now):
            return container
        return as_workload(container, await self._images.of(data), now)

    def _take(self, container: Container, data: Mapping[str, Any], group: str) -> None:
        self._notes.say(*_disbelieved(container, data))
        self._seen.take(container)
        if container.group != group:
            loop = asyncio.get_running_loop()
            self._left[group] = loop.time() + _LEFT_S
            loop.call_later(_LEFT_S + 0.1, self._workers.mark, group)
            self._workers.mark(container.group)

    def _forget(self, container_id: str) -> None:
        self._summaries.pop(container_id, None)
        if self._healer is not None:
            self._healer.forget(container_id)
        gone = self._seen.forget(container_id)
        if gone is not None:
            self._notes.forget(gone.name)
            self._attestor.forget(gone)


def _is_told_to_stop(container: Container, event: Event) -> bool:
    # Events may come late: one of the run before says nothing of this one.
    is_of_this_run = event.time > container.state.started
    return is_of_this_run and is_stop_signal(
        container, event.attributes.get("signal", "")
    )


def _disbelieved(
    container: Container, data: Mapping[str, Any]
) -> tuple[MappingFinding, ...]:
    role = ((data.get("Config") or {}).get("Labels") or {}).get(LABEL_ROLE, "")
    if role == container.role or container.is_node_mode:
        return ()
    reason = (
        f"it was not made as a {role} of the mesh, whatever its labels (or its image's) say; they"
        " are ignored"
    )
    return (MappingFinding(container.name, reason),)


def _digest(summary: Mapping[str, Any]) -> object:
    networks = (summary.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = sorted(
        (name, (n or {}).get("IPAddress") or "") for name, n in networks.items()
    )
    return (
        summary.get("Names"),
        summary.get("State"),
        _HEALTH.findall(summary.get("Status") or ""),
        addresses,
    )
