"""The agent: follows the engine, and keeps the network namespaces of this host's workloads in node
mode as they should be.

Level-triggered: whatever happens only says to compare again, and a namespace is visited when what
it is to have differs from what it was given. A start comes to the same as any other moment.
Invariants: an agent that ends leaves the rules in force; a namespace of the host's own, or of who
is in no mesh, is never captured.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import structlog

from dockermesh.docker.async_engine import DockerEngine
from dockermesh.docker.summary import name_of
from dockermesh.errors import EngineError
from dockermesh.model import INBOUND_PORT, OUTBOUND_PORT
from dockermesh.model.contract import LABEL_ROLE, NAMESPACES_PATH, PROXY_UID
from dockermesh.nodeagent import capture, namespaces
from dockermesh.nodeagent.greeting import Greeter
from dockermesh.nodeagent.places import Place, places
from dockermesh.nodeagent.resolver import NameServer, NameSockets, listen
from dockermesh.registrar.attached import AttachedFile
from dockermesh.registrar.container import Container, parse_container
from dockermesh.registrar.node_mode import (
    Images,
    as_workload,
    is_asked_for,
    namespace_path,
)
from dockermesh.runtime.backoff import Backoff
from dockermesh.runtime.inotify import FolderWatch

log = structlog.get_logger(__name__)

_RESYNC_S = 30.0
_LOOK_S = 0.02
"""Between two looks whether the proxy listens in a namespace that waits for it."""
_LEAVING_S = 1.0
"""How long one that is detached stays captured: until its callers know that it is."""
_DRAINS_S = 12.0
"""How long its connections are kept up after that: the proxy drains them for 5 s, from the moment
on at which it is told.
"""
_YOUNG_S = 5.0
"""Seconds for which a container counts as just starting, so that its connections wait for the
proxy; those of one that has run for longer go on until the proxy is there.
"""
_LISTENS = frozenset({OUTBOUND_PORT, INBOUND_PORT})


class NodeAgent:
    """The agent of one host."""

    def __init__(
        self,
        engine: DockerEngine,
        quick: DockerEngine,
        attached: AttachedFile,
        mesh_network: str,
    ) -> None:
        """`quick` is another connection to the same engine: what is asked of a container that is
        being started waits for its start, and the greeter must not wait behind it.
        """
        self._engine = engine
        self._greeter = Greeter(quick)
        self._attached = attached
        self._mesh_network = mesh_network
        self._wanted = asyncio.Event()
        self._containers: dict[str, Container] = {}
        self._images = Images(engine.image_config)
        self._given: dict[str, Place] = {}
        self._leaving: dict[str, Place] = {}
        self._held: set[str] = set()
        self._captured: set[str] = set()
        self._told: set[str] | None = None
        self._servers: dict[str, NameServer] = {}
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._greeted: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_new = True
        self._is_over = False

    async def run(self) -> NoReturn:
        """Keep them for ever; cancel to stop."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_engine())
            tasks.create_task(self._follow_namespaces())
            tasks.create_task(self._attached.follow(self._take_attached))
            tasks.create_task(self._keep())
        raise AssertionError("unreachable: the tasks never end")

    def let_all_go(self) -> None:
        """Undo all capture, and capture nothing any more."""
        self._is_over = True
        self._begin(self._release_all())

    async def _release_all(self) -> None:
        for path in list(self._captured):
            await _visit(path, capture.release)
            self._captured.discard(path)
        self._tell()
        log.info("all is released; nothing is captured until the next start")

    # -- what happens

    def _take_attached(self) -> None:
        self._containers.clear()
        self._wanted.set()

    async def _follow_engine(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            try:
                stream = await self._engine.subscribe()
                self._take_attached()
                try:
                    async for event in stream:
                        backoff.reset()
                        self._containers.pop(event.container, None)
                        self._wanted.set()
                finally:
                    await stream.close()
            except EngineError as error:
                log.warning("the engine is away; trying again", error=error.what)
            await asyncio.sleep(backoff.next())

    async def _follow_namespaces(self) -> None:
        watch = FolderWatch(Path(NAMESPACES_PATH))
        try:
            async for made in watch.notices():
                for name in made:
                    self._begin(self._greet(f"{NAMESPACES_PATH}/{name}"))
                self._wanted.set()
        finally:
            watch.close()

    async def _greet(self, path: str) -> None:
        """Capture a namespace that is just being made, before its app's first instruction. Who it
        is for, its labels say, which are an image's perhaps: `_settle` has the last word.
        """
        summary = await self._greeter.owner(path)
        if summary is None or not self._is_asked_for(summary) or path in self._given:
            return
        self._greeted[path] = summary["Id"]
        await self._capture(Place(path, name_of(summary)), is_held=True)

    async def _keep(self) -> None:
        backoff = Backoff(0.1, 5.0)
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), _RESYNC_S)
            self._wanted.clear()
            try:
                await self._reconcile()
                backoff.reset()
            except EngineError as error:
                log.warning("cannot compare now, will try again", error=error.what)
                await asyncio.sleep(backoff.next())
                self._wanted.set()

    # -- comparing

    async def _reconcile(self) -> None:
        listing = await self._engine.list_containers()
        present = {summary["Id"] for summary in listing}
        self._containers = {i: c for i, c in self._containers.items() if i in present}
        running = [s for s in listing if s.get("State") == "running"]
        if self._is_new:
            await self._release_left(running)
            self._is_new = False

        candidates = [s for s in running if self._is_asked_for(s)]
        await asyncio.gather(*(self._look(s["Id"]) for s in candidates))
        found = (self._containers.get(s["Id"]) for s in candidates)
        wanted = places(
            (c for c in found if c is not None),
            [_addresses(s) for s in running if self._is_neighbour(s)],
            self._mesh_network,
        )
        known = {s["Id"]: s.get("State") == "running" for s in listing}
        await self._settle(wanted, known)

    def _is_asked_for(self, summary: Mapping[str, Any]) -> bool:
        labels = summary.get("Labels") or {}
        return is_asked_for(name_of(summary), labels, self._attached.now)

    def _is_neighbour(self, summary: Mapping[str, Any]) -> bool:
        role = (summary.get("Labels") or {}).get(LABEL_ROLE)
        return role == "pod" or self._is_asked_for(summary)

    async def _look(self, container_id: str) -> None:
        if container_id in self._containers:
            return
        data = await self._engine.inspect(container_id)
        if data is None:
            return
        brought = await self._images.of(data)
        self._containers[container_id] = as_workload(
            parse_container(data), brought, self._attached.now
        )

    async def _release_left(self, running: list[dict[str, Any]]) -> None:
        """Take away what an agent before left at those that are in no mesh any more."""
        for summary in running:
            if self._is_asked_for(summary):
                continue
            data = await self._engine.inspect(summary["Id"])
            path = namespace_path(parse_container(data)) if data else ""
            if path:
                await _visit(path, capture.release)

    async def _settle(
        self, wanted: Mapping[str, Place], running: Mapping[str, bool]
    ) -> None:
        for path in self._given.keys() - wanted.keys():
            await self._leave(path)
        for path in self._mistaken(wanted, running):
            del self._greeted[path]
            self._held.discard(path)
            self._captured.discard(path)
            self._close_server(path)
            if _is_there(path):
                await _visit(path, capture.release)
        changed = [p for p in wanted.values() if self._given.get(p.path) != p]
        await asyncio.gather(*(self._give(place) for place in changed))
        self._tell()

    def _mistaken(
        self, wanted: Mapping[str, Place], running: Mapping[str, bool]
    ) -> list[str]:
        """Those that were captured before their start, and turn out to be in no mesh, or gone."""
        for path in wanted:
            self._greeted.pop(path, None)
        return [
            path
            for path, container in self._greeted.items()
            if running.get(container, True) or not _is_there(path)
        ]

    def _tell(self) -> None:
        """Write down which workloads' connections are led to the proxy now."""
        served = {
            place.workload
            for path, place in [*self._given.items(), *self._leaving.items()]
            if path in self._captured and path not in self._held
        }
        if served == self._told:
            return
        try:
            self._attached.write_captured(served)
            self._told = served
        except OSError as error:
            log.warning("cannot write down what is captured", error=str(error))

    # -- one namespace

    async def _give(self, place: Place) -> None:
        """Have its connections led to the proxy: at once where that listens already, or the app is
        just starting; where it has run before, when the proxy listens.
        """
        self._stop_waiting(place.path)
        listens = await _visit(place.path, namespaces.listening)
        if listens is None:
            return
        is_served = listens >= _LISTENS
        is_known = place.path in self._given
        is_young = not is_known and _is_young(place)
        if is_served or is_young or place.path in self._held:
            await self._capture(place, is_held=not is_served)
        if not is_served:
            waiting = asyncio.create_task(self._await_proxy(place))
            self._waiting[place.path] = waiting
        self._given[place.path] = place

    async def _await_proxy(self, place: Place) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            listens = await _visit(place.path, namespaces.listening)
            if listens is None:
                return
            if listens >= _LISTENS:
                await self._capture(place, is_held=False)
                self._waiting.pop(place.path, None)
                return

    async def _capture(self, place: Place, *, is_held: bool) -> None:
        if self._is_over:
            return
        is_new = place.path not in self._servers
        if is_new:
            self._servers[place.path] = NameServer(place.path)
        take = partial(_take, is_new=is_new, is_held=is_held, detours=place.detours)
        sockets = await _visit(place.path, take)
        if sockets is not None:
            await self._servers[place.path].serve(sockets)
        self._captured.add(place.path)
        if self._is_over:
            # It was under way when all was let go.
            self._begin(self._release_all())
        (self._held.add if is_held else self._held.discard)(place.path)
        self._tell()
        log.info("captured", workload=place.workload, waits=is_held, path=place.path)

    async def _leave(self, path: str) -> None:
        self._stop_waiting(path)
        place = self._given.pop(path)
        self._held.discard(path)
        if _is_there(path):
            self._leaving[path] = place
            self._begin(self._let_go(path))
            return
        self._captured.discard(path)
        self._close_server(path)
        log.info("gone", workload=place.workload)

    async def _let_go(self, path: str) -> None:
        await asyncio.sleep(_LEAVING_S)
        self._leaving.pop(path, None)
        # It may have come back meanwhile.
        if path in self._given:
            return
        await _visit(path, capture.let_go)
        self._captured.discard(path)
        self._tell()
        await asyncio.sleep(_DRAINS_S)
        if path not in self._given:
            await _visit(path, capture.release)
            self._close_server(path)
            log.info("released", path=path)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _close_server(self, path: str) -> None:
        server = self._servers.pop(path, None)
        if server is not None:
            server.close()

    def _stop_waiting(self, path: str) -> None:
        waiting = self._waiting.pop(path, None)
        if waiting is not None:
            waiting.cancel()


async def _visit(path: str, action: Any, *arguments: Any) -> Any:
    """What the action returns there; None if the namespace is gone, or refuses."""
    try:
        return await asyncio.to_thread(
            namespaces.within, path, partial(action, *arguments)
        )
    except OSError as error:
        if _is_there(path):
            log.warning("a namespace refuses", path=path, error=str(error))
        return None


def _take(
    *, is_new: bool, is_held: bool, detours: Mapping[str, str]
) -> NameSockets | None:
    """Capture the namespace that this thread is in; what is new there gets a name server first."""
    sockets = listen() if is_new else None
    namespaces.lead_back(PROXY_UID)
    capture.capture(is_patient=True, is_held=is_held, detours=detours)
    return sockets


def _is_young(place: Place) -> bool:
    return time.time() - place.started / 1e9 < _YOUNG_S


def _is_there(path: str) -> bool:
    return Path(path).exists()


def _addresses(summary: Mapping[str, Any]) -> dict[str, str]:
    networks = (summary.get("NetworkSettings") or {}).get("Networks") or {}
    return {name: (n or {}).get("IPAddress") or "" for name, n in networks.items()}
