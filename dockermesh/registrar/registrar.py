"""The live registrar: follows the engine's events and keeps a sink and the pods as they should be.

Level-triggered: an event only says which container to look at again, and everything is compared
again on every connect and periodically. Invariant: the events of one group are handled one after
the other, and `run` never ends.
"""

from __future__ import annotations

import asyncio
import re
import signal
import ssl
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, Protocol

import structlog

from dockermesh.engine.docker import EngineRefusedError
from dockermesh.engine.events import Event, EventStream
from dockermesh.errors import DockermeshError, EngineError
from dockermesh.model.contract import LABEL_ROLE
from dockermesh.registrar.attest import find_token
from dockermesh.registrar.checker import Checker
from dockermesh.registrar.container import Container, group_of, parse_container
from dockermesh.registrar.desired import desired_state
from dockermesh.registrar.heal import Action, Verb, plan_healing
from dockermesh.registrar.mapping import Skipped
from dockermesh.registrar.options import Options
from dockermesh.registrar.sink import Sink
from dockermesh.registrar.workers import KeyedWorkers
from dockermesh.runtime.backoff import Backoff

log = structlog.get_logger(__name__)

RESYNC = 30.0
_FULL_EVERY = (
    10  # every so many resyncs all containers are inspected, whatever the listing says of them
)
_STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM})
_MIN_STOP_WAIT = 30.0
_HEALTH = re.compile(r"\(([A-Za-z: ]+)\)")


class Engine(Protocol):
    """What the registrar asks of Docker: reading, and for healing `start`, `stop` and `restart`."""

    async def list_containers(self) -> list[dict[str, Any]]: ...
    async def inspect(self, container: str) -> dict[str, Any] | None: ...
    async def logs(self, container: str, since: int) -> str: ...
    async def subscribe(self, since: int = 0) -> EventStream: ...
    async def start(self, container: str) -> None: ...
    async def restart(self, container: str, grace: int) -> None: ...
    async def stop(self, container: str, grace: int) -> None: ...


def is_stop_signal(container: Container, sent: str) -> bool:
    """Whether a container that got this signal is about to end; HUP and the like only make it
    reload.
    """
    number = _signal_number(sent)
    return number in _STOP_SIGNALS or (
        number > 0 and number == _signal_number(container.stop_signal)
    )


def _signal_number(text: str) -> int:
    if text.isdigit():
        return int(text)
    if match := re.fullmatch(r"(?:SIG)?RTMIN(?:\+(\d+))?", text.upper()):
        return int(signal.SIGRTMIN) + int(match[1] or 0)  # systemd's containers stop on RTMIN+3
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    return int(signal.Signals[name]) if name in signal.Signals.__members__ else 0


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
    ) -> None:
        """`tls` gives what proxies are asked for their health with, where they take no
        plaintext.
        """
        self._engine = engine
        self._sink = sink
        self._options = options
        self._heals = heal
        self._resync = resync
        self._containers: dict[str, Container] = {}
        self._summaries: dict[str, object] = {}
        self._dirty: dict[str, set[str]] = {}
        self._stopping: dict[str, int] = {}
        self._tokens: dict[str, str] = {}
        self._attesting: dict[str, asyncio.Task[None]] = {}
        self._healing: dict[str, asyncio.Task[None]] = {}
        self._attempts: dict[str, Backoff] = {}
        self._said: set[tuple[str, str]] = set()
        self._last_event = 0
        self._full = True
        self._sync_wanted = asyncio.Event()
        self._workers = KeyedWorkers(self._handle)
        self._checker = Checker(self._workers.mark, tls)

    async def run(self) -> NoReturn:
        """Follow the engine for ever; cancel to stop. Entries stay in the sink: the services
        outlive the registrar.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._sink.run(self._request_resync))
                tasks.create_task(self._follow())
                tasks.create_task(self._keep_synced())
        finally:
            for task in (*self._attesting.values(), *self._healing.values()):
                task.cancel()
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
                connected = True
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
                        "the engine is away; trying again until it is back", error=error.what
                    )
                connected = False
            await asyncio.sleep(backoff.next())

    def _on_event(self, event: Event) -> None:
        self._last_event = max(self._last_event, event.time)
        known = self._containers.get(event.container)
        group = known.group if known else group_of(event.container, event.attributes)
        if event.action == "kill":
            if (
                known
                and event.time > known.state.started
                and is_stop_signal(known, event.attributes.get("signal", ""))
            ):
                self._expect_stop(known, event.time)
            return
        self._dirty.setdefault(group, set()).add(event.container)
        self._workers.mark(group)

    def _expect_stop(self, container: Container, when: int) -> None:
        self._stopping[container.id] = when
        self._workers.mark(container.group)
        wait = max(_MIN_STOP_WAIT, container.stop_timeout + 5.0)
        asyncio.get_running_loop().call_later(wait, self._stop_overdue, container.id, when)

    def _stop_overdue(self, container_id: str, when: int) -> None:
        # It got the signal and runs still: it serves, so it is listed again.
        if self._stopping.get(container_id) == when:
            del self._stopping[container_id]
            self._look_again(container_id)

    def _look_again(self, container_id: str) -> None:
        container = self._containers.get(container_id)
        if container is not None:
            self._dirty.setdefault(container.group, set()).add(container_id)
            self._workers.mark(container.group)

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
                    "cannot compare now, will try again", error=error.what, where=error.where
                )
                await asyncio.sleep(backoff.next())
                self._request_resync()

    async def _reconcile(self, *, full: bool) -> None:
        listing = await self._engine.list_containers()
        groups = {group_of(c["Id"], c.get("Labels") or {}) for c in listing}
        present = {c["Id"] for c in listing}
        for container in list(self._containers.values()):
            if container.id not in present:
                self._dirty.setdefault(container.group, set()).add(container.id)
                self._workers.mark(container.group)
        for summary in listing:
            self._compare(summary, full=full)
        await self._sink.refresh()
        await self._sink.retain(groups)
        for group in groups:
            self._workers.mark(group)

    def _compare(self, summary: Mapping[str, Any], *, full: bool) -> None:
        container_id = summary["Id"]
        digest = _digest(summary)
        if (
            full
            or self._summaries.get(container_id) != digest
            or container_id not in self._containers
        ):
            group = group_of(container_id, summary.get("Labels") or {})
            self._dirty.setdefault(group, set()).add(container_id)
            self._workers.mark(group)
        self._summaries[container_id] = digest

    # -- one group

    async def _handle(self, group: str) -> None:
        dirty = self._dirty.pop(group, set())
        try:
            await asyncio.gather(*(self._inspect(i, group) for i in dirty))
        except EngineError:
            self._dirty.setdefault(group, set()).update(dirty)
            raise
        members = [c for c in self._containers.values() if c.group == group]
        owners = {c.joined for c in members} - {c.id for c in members}
        scope = members + [self._containers[i] for i in owners if i in self._containers]
        self._attest(members)
        self._heal(members)
        desired = desired_state(
            scope,
            self._options,
            stopping=self._stopping,
            tokens=self._tokens,
            answers=self._checker.results,
            group=group,
        )
        self._say(desired.skipped)
        self._checker.follow(group, desired.registrations)
        await self._sink.apply(group, desired)

    async def _inspect(self, container_id: str, group: str) -> None:
        data = await self._engine.inspect(container_id)
        before = self._containers.get(container_id)
        if data is None:
            self._forget(container_id)
        else:
            container = parse_container(data)
            self._say(_disbelieved(container, data))
            self._containers[container_id] = container
            told = self._stopping.get(container_id, 0)
            if told and (not container.state.running or container.state.started > told):
                del self._stopping[container_id]
            if container.group != group:
                self._workers.mark(container.group)
        if self._containers.get(container_id) != before:
            for other in list(self._containers.values()):
                if other.joined == container_id and other.group != group:
                    self._workers.mark(other.group)

    def _forget(self, container_id: str) -> None:
        gone = self._containers.pop(container_id, None)
        for known in (self._stopping, self._summaries, self._attempts):
            known.pop(container_id, None)
        if gone is not None:
            self._said = {s for s in self._said if s[0] != gone.name}
            self._tokens.pop(gone.incarnation, None)

    def _say(self, skipped: tuple[Skipped, ...]) -> None:
        for item in skipped:
            if (item.container, item.reason) not in self._said:
                self._said.add((item.container, item.reason))
                log.info("left out", container=item.container, reason=item.reason)

    # -- attestation

    def _attest(self, members: list[Container]) -> None:
        current = {c.incarnation for c in members}
        for known in [
            t
            for t in self._tokens
            if t.partition("@")[0] in {c.id for c in members} and t not in current
        ]:
            del self._tokens[known]
        for pod in members:
            waiting = pod.incarnation in self._tokens or pod.incarnation in self._attesting
            if pod.role == "pod" and pod.state.running and not waiting:
                task = asyncio.create_task(self._find_token(pod), name=f"attest {pod.name}")
                self._attesting[pod.incarnation] = task
                task.add_done_callback(partial(self._attested, pod.incarnation))

    def _attested(self, incarnation: str, _: asyncio.Task[None]) -> None:
        self._attesting.pop(incarnation, None)

    async def _find_token(self, pod: Container) -> None:
        # Read again and again rather than followed: a pod says it within milliseconds, and a stream
        # holds a thread.
        delay = 0.01
        while self._is_current(pod):
            try:
                # Since the end of the run before: Docker notes the start only after the process may
                # have written.
                token = find_token(await self._engine.logs(pod.id, pod.state.finished), pod.group)
            except EngineError as error:
                self._say((Skipped(pod.name, f"its log cannot be read: {error.what}"),))
                delay = max(delay, 1.0)
                token = ""
            if token:
                self._tokens[pod.incarnation] = token
                self._workers.mark(pod.group)
                return
            await asyncio.sleep(delay)
            delay = min(delay * 1.4, 2.0)

    def _is_current(self, pod: Container) -> bool:
        now = self._containers.get(pod.id)
        return now is not None and now.incarnation == pod.incarnation and now.state.running

    # -- healing

    def _heal(self, members: list[Container]) -> None:
        if not self._heals:
            return
        plan = plan_healing(members, self._stopping)
        needy = {a.container.id for a in plan}
        for member in members:
            if member.id not in needy:
                self._attempts.pop(member.id, None)
        for action in plan:
            target = action.container
            if action.verb is Verb.REPORT:
                self._say((Skipped(target.name, action.reason),))
            elif target.id not in self._healing:
                self._healing[target.id] = asyncio.create_task(
                    self._take(action), name=f"heal {target.name}"
                )

    async def _take(self, action: Action) -> None:
        target = action.container
        backoff = self._attempts.get(target.id)
        wait = backoff.next() if backoff else 0.0
        self._attempts.setdefault(target.id, Backoff(0.5, 4.0))
        try:
            await asyncio.sleep(max(wait, action.delay))
            fresh = [c for c in self._containers.values() if c.group == target.group]
            if not any(
                a.container.id == target.id and a.verb is action.verb
                for a in plan_healing(fresh, self._stopping)
            ):
                return
            log.info("healing", container=target.name, verb=action.verb.value, reason=action.reason)
            if action.verb is Verb.START:
                await self._engine.start(target.id)
            elif action.verb is Verb.STOP:
                await self._engine.stop(target.id, action.grace)
            else:
                await self._engine.restart(target.id, action.grace)
        except EngineRefusedError as error:
            self._say((Skipped(target.name, f"it cannot be healed: {error.what}"),))
            await asyncio.sleep(60.0)
        except EngineError as error:
            log.warning("healing failed, will try again", container=target.name, error=error.what)
        finally:
            self._healing.pop(target.id, None)
            self._look_again(target.id)


def _disbelieved(container: Container, data: Mapping[str, Any]) -> tuple[Skipped, ...]:
    role = ((data.get("Config") or {}).get("Labels") or {}).get(LABEL_ROLE, "")
    if role == container.role:
        return ()
    reason = (
        f"it was not made as a {role} of the mesh, whatever its labels (or its image's) say; they"
        " are ignored"
    )
    return (Skipped(container.name, reason),)


def _digest(summary: Mapping[str, Any]) -> object:
    networks = (summary.get("NetworkSettings") or {}).get("Networks") or {}
    addresses = sorted((name, (n or {}).get("IPAddress") or "") for name, n in networks.items())
    return (
        summary.get("Names"),
        summary.get("State"),
        _HEALTH.findall(summary.get("Status") or ""),
        addresses,
    )
