"""Two ways to follow the health of many services.

`PerService` holds one blocking query per service: a change is seen in 2 to 3 ms, at the price of a
connection each. `FewConnections` serves where Consul allows fewer connections than there are
services: it holds one query per *node* (Consul gives the services of a node with the index of their
last change) and one each for the critical and the warning checks, works out whose health to read,
and reads just that. Measured with Consul 1.8.7: `/v1/catalog/services` returns when any instance
changes, `/v1/catalog/node/N` when one of that node does, neither when a check does;
`/v1/health/state/critical` returns only when a check becomes critical or ceases to be.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import is_refused_connection
from dockermesh.registry.consul.pacing import retries
from dockermesh.registry.consul.watch import Outages, Watch

Deliver = Callable[[str, Any], None]
# Reads at once: more would only queue up in Consul.
_READERS = 8
# At a start all services are read; without a bound Consul would get thousands at once.
_FIRST_READS = 32
# Seconds for which queries that block wait for the first reads of others.
_FIRST_READS_S = 5.0
# Each node costs a connection; beyond, everything is read when anything changes.
_MAX_NODES = 120
# Reading everything takes a fifth of the time at most.
_SWEEP_REST = 4.0


class Follower(Protocol):
    """Delivers the health entries of the services it was given, whenever they change."""

    def update(self, names: Sequence[str]) -> None:
        """Follow exactly these services. Called whenever Consul's list of services was read."""

    def stop(self) -> None:
        """End all that was started."""


@dataclass(frozen=True, slots=True)
class Start:
    """What followers need: the client, where tasks live, whom to tell."""

    client: ConsulClient
    tasks: asyncio.TaskGroup
    outages: Outages
    deliver: Deliver
    on_reset: Callable[[], None]
    on_service_failure: Callable[[str, int, BaseException], None]
    reads: asyncio.Semaphore = field(
        default_factory=lambda: asyncio.Semaphore(_FIRST_READS)
    )


class PerService:
    """One blocking query per service."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._unread: set[str] = set()
        self._all_read = asyncio.Event()
        self._all_read.set()

    def update(self, names: Sequence[str]) -> None:
        """Start and end watches."""
        wanted = set(names)
        self._expect(wanted)
        for name in [n for n in self._tasks if n not in wanted]:
            self._tasks.pop(name).cancel()
            self._start.outages.succeeded(_service_key(name))
        for name in names:
            if name not in self._tasks:
                self._tasks[name] = self._start.tasks.create_task(
                    self._watch(name).run()
                )

    def stop(self) -> None:
        """End all watches."""
        self.update(())

    def _expect(self, wanted: set[str]) -> None:
        self._unread &= wanted
        self._unread |= wanted - self._tasks.keys()
        if self._unread:
            self._all_read.clear()
        else:
            self._all_read.set()

    def _was_read(self, name: str) -> None:
        """Or failed, which is tried again: others do not wait for that."""
        self._unread.discard(name)
        if not self._unread:
            self._all_read.set()

    def _watch(self, name: str) -> Watch:
        start = self._start

        async def fetch(index: int | None) -> Any:
            # A query that blocks is no work for Consul once it is there; only first reads count,
            # and those come first.
            if index is not None:
                if not self._all_read.is_set():
                    await _within(_FIRST_READS_S, self._all_read.wait())
                return await start.client.health.service(
                    name, index=index, wait=start.client.wait
                )
            try:
                async with start.reads:
                    return await start.client.health.service(name)
            finally:
                self._was_read(name)

        return Watch(
            _service_key(name),
            fetch,
            lambda data: start.deliver(name, data),
            start.outages,
            on_reset=start.on_reset,
            on_failure=lambda failures, error: start.on_service_failure(
                name, failures, error
            ),
        )


class FewConnections:
    """A blocking query per node and two for checks, and reads of what changed."""

    def __init__(self, start: Start, max_nodes: int = _MAX_NODES) -> None:
        self._start = start
        self._max_nodes = max_nodes
        self._names: set[str] = set()
        self._dirty: dict[str, None] = {}
        self._has_dirty = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy = 0
        self._sweep = asyncio.Event()
        self._sweeping = False
        self._nodes: dict[str, asyncio.Task[None]] = {}
        self._on_node: dict[str, dict[str, tuple[int, str]]] = {}
        self._node_versions: dict[str, Any] = {}
        self._failing_checks: dict[str, dict[tuple[str, str], tuple[Any, str]]] = {}
        self._tasks = [
            start.tasks.create_task(work)
            for work in (
                self._follow_checks("critical").run(),
                self._follow_checks("warning").run(),
                self._follow_nodes().run(),
                self._sweeper(),
                *(self._reader() for _ in range(_READERS)),
            )
        ]

    def update(self, names: Sequence[str]) -> None:
        """Read what is new; where nodes cannot be followed, everything, because something has
        changed.
        """
        wanted = set(names)
        # At the first call nodes report everything anyway.
        new = wanted - self._names if self._names else set()
        self._names = wanted
        for name in [n for n in self._dirty if n not in wanted]:
            del self._dirty[name]
        self._mark(sorted(new))
        if self._sweeping:
            self._sweep.set()

    def stop(self) -> None:
        """End all queries."""
        for task in [*self._tasks, *self._nodes.values()]:
            task.cancel()
        for key in (
            "nodes",
            "critical checks",
            "warning checks",
            "service reads",
            *map(_node_key, self._nodes),
        ):
            self._start.outages.succeeded(key)
        self._nodes.clear()

    def _mark(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._names:
                self._dirty[name] = None
        if self._dirty:
            self._idle.clear()
            self._has_dirty.set()

    async def _reader(self) -> None:
        backoff = retries()
        while True:
            while not self._dirty:
                self._has_dirty.clear()
                if not self._busy:
                    self._idle.set()
                await self._has_dirty.wait()

            # Oldest mark first: a service that changes all the time must not starve the others.
            name = next(iter(self._dirty))
            del self._dirty[name]
            self._busy += 1

            try:
                _index, entries = await self._start.client.health.service(name)
                if name in self._names:
                    self._start.deliver(name, entries)
                self._start.outages.succeeded("service reads")
                backoff.reset()
            except (
                Exception
            ) as error:  # as in Watch: nothing that a registry sends may end it
                wait = backoff.next()
                self._start.outages.failed("service reads", error)
                self._start.on_service_failure(name, backoff.failures, error)
                self._mark([name])
                await self._start.outages.pause(wait)
            finally:
                self._busy -= 1

    async def _sweeper(self) -> None:
        while True:
            await self._sweep.wait()
            self._sweep.clear()
            begun = time.monotonic()
            self._mark(sorted(self._names))
            await self._idle.wait()
            # Reading everything is dear: leave Consul in peace for most of the time.
            await asyncio.sleep((time.monotonic() - begun) * _SWEEP_REST)

    def _follow_nodes(self) -> Watch:
        start = self._start

        async def fetch(index: int | None) -> Any:
            return await start.client.catalog.nodes(index=index, wait=start.client.wait)

        return Watch(
            "nodes", fetch, self._take_nodes, start.outages, on_reset=start.on_reset
        )

    def _take_nodes(self, nodes: Any) -> None:
        versions = _versions(nodes or ())
        self._mark_changed(versions)
        self._node_versions = versions
        self._sweeping = not versions or len(versions) > self._max_nodes

        followed = set() if self._sweeping else set(versions)
        for node in [n for n in self._nodes if n not in followed]:
            self._leave(node)
        for node in sorted(followed - set(self._nodes)):
            self._nodes[node] = self._start.tasks.create_task(
                self._follow_node(node).run()
            )

        if self._sweeping:
            self._sweep.set()

    def _mark_changed(self, versions: Mapping[str, Any]) -> None:
        # A node's address and meta are part of the entries of its services.
        for node, version in versions.items():
            if self._node_versions.get(node, version) != version:
                self._mark(self._services_on(node))

    def _leave(self, node: str) -> None:
        self._nodes.pop(node).cancel()
        self._start.outages.succeeded(_node_key(node))
        self._mark(self._services_on(node))
        self._on_node.pop(node, None)

    def _services_on(self, node: str) -> list[str]:
        return sorted({name for _, name in self._on_node.get(node, {}).values()})

    def _follow_node(self, node: str) -> Watch:
        start = self._start

        async def fetch(index: int | None) -> Any:
            return await start.client.catalog.node(
                node, index=index, wait=start.client.wait
            )

        return Watch(
            _node_key(node),
            fetch,
            lambda data: self._take_node(node, data),
            start.outages,
        )

    def _take_node(self, node: str, data: Any) -> None:
        services: Mapping[str, Any] = (data or {}).get("Services") or {}
        now = {
            sid: (int(s.get("ModifyIndex", 0)), str(s.get("Service", "")))
            for sid, s in services.items()
        }
        # An instance that moved, changed or left: its service is read, whatever it was.
        before = self._on_node.get(node, {})
        self._on_node[node] = now
        self._mark(
            sorted({name for _id, (_version, name) in now.items() ^ before.items()})
        )

    def _follow_checks(self, state: str) -> Watch:
        start = self._start

        async def fetch(index: int | None) -> Any:
            return await start.client.health.state(
                state, index=index, wait=start.client.wait
            )

        return Watch(
            f"{state} checks",
            fetch,
            lambda data: self._take_checks(state, data),
            start.outages,
        )

    def _take_checks(self, state: str, data: Any) -> None:
        now = {
            (str(c.get("Node")), str(c.get("CheckID"))): (
                str(c.get("ServiceID", "")),
                str(c.get("ServiceName", "")),
            )
            for c in data or ()
        }
        # Only a check that came to this state or left it; what it says may differ each time.
        before = self._failing_checks.get(state, {})
        self._failing_checks[state] = now

        for (node, _check), (_service_id, name) in now.items() ^ before.items():
            # A check of the node itself (its agent is dead, or in maintenance) concerns all that
            # runs there.
            self._mark([name] if name else self._services_on(node))
            if not name and self._sweeping:
                self._sweep.set()


def refused_by_limit(failures: int, error: BaseException) -> bool:
    """Whether failures in a row look like Consul's limit of connections rather than like an
    outage.
    """
    return failures >= 3 and is_refused_connection(error)


def _versions(nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    named = (node for node in nodes if isinstance(node.get("Node"), str))
    return {node["Node"]: node.get("ModifyIndex") for node in named}


def _service_key(name: str) -> str:
    return f"service {name}"


def _node_key(node: str) -> str:
    return f"node {node}"


async def _within(seconds: float, waiting: Awaitable[object]) -> None:
    with suppress(TimeoutError):
        await asyncio.wait_for(waiting, seconds)
