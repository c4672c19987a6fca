"""A server's proxy ends connections, or itself, and no request is lost or comes twice, whatever
carries it: HTTP/2 says so with GOAWAY, on a connection that has many requests in hand.
"""

from __future__ import annotations

import itertools
import re
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from carried_rig import PATIENCE_S, Held, Wire, admin, counted, soon
from replica_rig import WAYS, Replica, World, hash_rule, running

from dockermesh.model import Protocol

pytestmark = [pytest.mark.binary, pytest.mark.asyncio]

SERVICES = {
    "declared": Protocol.HTTP,
    "sniffed": Protocol.AUTO,
    "hashed": Protocol.HTTP,
    "hashed-sniffed": Protocol.AUTO,
}
Line = tuple[str, str]
"""What carries, and the service called."""
LINES: list[Line] = [(way, service) for way in WAYS for service in SERVICES]
HELD = 4
"""Long polls on each line; each replica gets some."""
EACH = 6
"""So many requests each caller sends at least in a situation that it is to see."""
HASHED = "\n---\n".join(
    hash_rule(name, "httpHeaderName: x-user")
    for name in SERVICES
    if name.startswith("hashed")
)


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with running(tmp_path, SERVICES, 2, HASHED) as made:
        yield made


def _request(service: str, path: str, number: int, body: str = "") -> str:
    lines = [
        f"{'POST' if body else 'GET'} {path}~{number} HTTP/1.1",
        f"Host: {service}",
        f"X-User: {number}",
        *([f"Content-Length: {len(body)}"] if body else []),
    ]
    return "\r\n".join([*lines, "", body])


def _status(answer: str) -> int:
    found = re.match(r"HTTP/1.1 (\d+)", answer)
    return int(found[1]) if found else 0


@dataclass
class Traffic:
    """Requests, each with a number of its own: some wait in the apps, and callers go on asking."""

    world: World
    lines: list[Line] = field(default_factory=lambda: LINES)
    held: Held = field(default_factory=Held)
    waiting: dict[int, Wire] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    done: Counter[int] = field(default_factory=Counter)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    over: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        """Have the apps get requests that they do not answer yet."""
        for replica in self.world.replicas:
            replica.app.scripts["/held"] = self.held
        for index, (way, service) in enumerate(self.lines * HELD):
            wire = self.world.wire(way, service)
            number = next(self.numbers)
            wire.send_text(_request(service, "/held", number, "x" * (index % 3)))
            self.waiting[number] = wire
        for _ in self.waiting:
            assert self.held.begun.acquire(timeout=PATIENCE_S)

    def release(self) -> Counter[int]:
        """Have them answered; how often which status came."""
        self.held.go.set()
        for number, wire in self.waiting.items():
            with wire:
                self.statuses[number] = _status(wire.read_answer())
        return Counter(self.statuses[number] for number in self.waiting)

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Callers, one on every line."""
        callers = [
            threading.Thread(target=self._call, args=(index, *line))
            for index, line in enumerate(self.lines)
        ]
        for caller in callers:
            caller.start()
        try:
            self.go_on()
            yield
        finally:
            self.over.set()
            for caller in callers:
                caller.join()

    def go_on(self) -> None:
        """Wait until each caller has begun and ended some more requests."""
        before = Counter(self.done)
        callers = range(len(self.lines))
        soon(
            lambda: all(self.done[c] - before[c] > EACH for c in callers),
            "callers go on",
        )

    def _call(self, index: int, way: str, service: str) -> None:
        wire = self.world.wire(way, service)
        while not self.over.is_set():
            number = next(self.numbers)
            self.statuses[number] = 0
            with suppress(OSError):
                wire.send_text(_request(service, "/n", number, "x" * (number % 3)))
                self.statuses[number] = _status(wire.read_answer())
            # On some of its connections it asks more than once.
            if number % 2 or not self.statuses[number]:
                wire.close()
                wire = self.world.wire(way, service)
            self.done[index] += 1
        wire.close()

    def seen(self, *replicas: Replica) -> Counter[int]:
        """How often apps got each request."""
        return Counter(
            int(head.split(" ")[1].split("~")[1])
            for replica in replicas or self.world.replicas
            for path in ("/n", "/held")
            for head in list(replica.app.seen[path])
        )

    def is_whole(self) -> None:
        """Fails unless each request was answered, and came to one app once."""
        failed = {n: s for n, s in self.statuses.items() if s != 200}
        assert not failed
        seen = self.seen()
        assert seen.keys() == self.statuses.keys()
        assert set(seen.values()) == {1}


def _listens(world: World, replica: Replica) -> bool:
    return any(replica.listens(port) for port in world.listens.values())


def _told_to_go(world: World, way: str) -> int:
    """How many connections of a client's proxy a server's told it to leave."""
    return counted(world.admins[way], "upstream_cx_close_notify")


def _when_new_ones_go_elsewhere(traffic: Traffic, leaves: Replica) -> Counter[int]:
    """What the replica had got by then: connections that were idle may be used once more."""
    had = traffic.seen(leaves)

    def is_elsewhere() -> bool:
        nonlocal had
        before, _ = had, traffic.go_on()
        had = traffic.seen(leaves)
        return had == before

    soon(is_elsewhere, "new ones go elsewhere")
    return had


async def test_a_proxy_that_drains_loses_nothing(world: World) -> None:
    # Whoever is bound to one replica by a hash waits until that is out of the list.
    unbound = [line for line in LINES if not line[1].startswith("hashed")]
    traffic = Traffic(world, unbound)
    traffic.hold()
    drains, other = world.replicas
    with traffic.calling():
        admin(drains.admin, "POST", "/drain_listeners?graceful")
        soon(lambda: not _listens(world, drains), "it listens no more")
        # What was on its way to it then.
        traffic.go_on()
        had = _when_new_ones_go_elsewhere(traffic, drains)
    assert len(traffic.seen(other)) > 2 * EACH
    for way in WAYS:
        assert _told_to_go(world, way)
    # What waits in the app of the one that drains still does.
    assert any(n in had for n in traffic.waiting)
    assert traffic.release() == {200: len(traffic.waiting)}
    traffic.is_whole()


async def test_a_pod_that_is_stopped_loses_nothing(world: World) -> None:
    """Its proxy gets SIGHUP, which it passes over, and its endpoints go; it ends when its app has,
    by SIGKILL.
    """
    traffic = Traffic(world)
    traffic.hold()
    stops, other = world.replicas
    with traffic.calling():
        stops.signal(signal.SIGHUP)
        traffic.go_on()
        assert _listens(world, stops)
        world.stays(other)
        traffic.go_on()
        had = _when_new_ones_go_elsewhere(traffic, stops)
        assert any(n in had for n in traffic.waiting)
        assert traffic.release() == {200: len(traffic.waiting)}
        stops.signal(signal.SIGKILL)
        traffic.go_on()
    traffic.is_whole()


async def test_a_proxy_that_ends_at_once_has_nothing_done_twice(world: World) -> None:
    """As Envoy does on SIGTERM. What it has in hand fails, as the app may have done it; nothing else does."""
    traffic = Traffic(world)
    traffic.hold()
    ends, other = world.replicas
    in_hand = [n for n in traffic.seen(ends) if n in traffic.waiting]
    assert in_hand
    with traffic.calling():
        ends.signal(signal.SIGTERM)
        soon(lambda: not _listens(world, ends), "it has ended")
        # Keys of the one that is gone wait for somebody else to have them.
        world.stays(other)
        traffic.go_on()
        late = next(traffic.numbers)
        traffic.go_on()
    statuses = traffic.release()
    assert statuses == {200: len(traffic.waiting) - len(in_hand), 503: len(in_hand)}
    assert set(traffic.seen().values()) == {1}
    failed = {n for n, status in traffic.statuses.items() if status != 200}
    # At most the one that each caller had under way.
    assert len(failed - set(in_hand)) <= len(LINES)
    assert max(failed) < late


FILTER = """
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: limits}}
spec:
  configPatches:
  - applyTo: NETWORK_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}
    patch:
      operation: MERGE
      value:
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          common_http_protocol_options: {{{limit}}}
"""


async def test_connections_that_the_server_ends_lose_nothing(tmp_path: Path) -> None:
    limit = "max_requests_per_connection: 10, max_connection_duration: 0.1s"
    more = HASHED + "\n---\n" + FILTER.format(limit=limit)
    async with running(tmp_path, SERVICES, 2, more) as world:
        traffic = Traffic(world)
        traffic.hold()
        with traffic.calling():
            for replica in world.replicas:
                for reached in ("requests", "duration"):
                    name = f"downstream_cx_max_{reached}_reached"
                    _often(replica.admin, name)
            traffic.go_on()
        assert _told_to_go(world, "HTTP/2") > 10
        assert traffic.release() == {200: len(traffic.waiting)}
        traffic.is_whole()


def _often(port: int, name: str) -> None:
    """Wait until an Envoy has counted more than a few."""
    soon(lambda: counted(port, name) > 10, name)


POOL = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: pool}
spec:
  host: "*.service.consul"
  trafficPolicy:
    connectionPool:
      http: {maxRequestsPerConnection: 10}
      tcp: {maxConnectionDuration: 0.1s}
"""


async def test_connections_that_the_client_s_proxy_ends_lose_nothing(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, SERVICES, 2, POOL) as world:
        traffic = Traffic(world)
        traffic.hold()
        with traffic.calling():
            for way in WAYS:
                for name in ("max_requests", "max_duration_reached"):
                    _often(world.admins[way], f"upstream_cx_{name}")
            traffic.go_on()
        assert traffic.release() == {200: len(traffic.waiting)}
        traffic.is_whole()
