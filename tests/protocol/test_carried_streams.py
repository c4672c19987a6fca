"""Many requests on one connection between two proxies keep out of each other's way, and an app sees
each of them as it would on a connection of its own.
"""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from carried_rig import (
    KINDS,
    PATIENCE_S,
    Held,
    Wire,
    World,
    body_of,
    running,
    says,
    soon,
)

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]
LARGE = 64 * 2**20
WAYS = ("HTTP/1.1", "HTTP/2")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_way = pytest.mark.parametrize("carried", WAYS)
OK = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("carried")) as made:
        yield made


def head(path: str, kind: str, *more: str, method: str = "GET") -> str:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {kind}", *more, "", ""])


def opened(world: World, carried: str, kind: str, text: str) -> Wire:
    wire = Wire.to(world.ports[carried, kind])
    wire.send_text(text)
    return wire


def get(world: World, carried: str, kind: str, path: str) -> str:
    return world.ask(head(path, kind), carried=carried, kind=kind)


def taken(held: threading.Semaphore) -> None:
    assert held.acquire(timeout=PATIENCE_S)


# what becomes of a connection
# ---------------------------------------------------------------------------------------


@every_kind
@every_way
@pytest.mark.parametrize("token", ["websocket", "WebSocket", "tcp", "SPDY/3.1"])
async def test_a_connection_is_upgraded_and_each_side_may_speak(
    world: World, token: str, carried: str, kind: str
) -> None:
    def script(connection: socket.socket, request: str) -> None:
        found = re.search(r"^upgrade: (.*)\r$", request, re.M)
        assert found is not None
        connection.sendall(
            f"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: {found[1]}\r\n\r\nhello".encode()
        )
        while data := connection.recv(100):
            connection.sendall(data.upper())

    world.app.scripts["/upgrade"] = script

    def talk() -> None:
        text = head("/upgrade", kind, "Connection: Upgrade", f"Upgrade: {token}")
        with opened(world, carried, kind, text) as wire:
            answer = wire.read_head()
            assert answer.startswith("HTTP/1.1 101"), answer
            assert wire.recv(5) == b"hello"
            for word in (b"one", b"two"):
                wire.sendall(word)
                assert wire.recv(3) == word.upper()

    await asyncio.to_thread(talk)


@every_kind
@every_way
@pytest.mark.parametrize("status", ["426 X", "404 X"])
async def test_an_upgrade_that_an_app_passes_over_is_none(
    world: World, status: str, carried: str, kind: str
) -> None:
    world.app.scripts["/passed"] = says(
        f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno"
    )
    text = head("/passed", kind, "Connection: Upgrade", "Upgrade: websocket")
    answer = await asyncio.to_thread(world.ask, text, carried=carried, kind=kind)
    assert answer.startswith(f"HTTP/1.1 {status[:3]} ") and answer.endswith("no")


@every_kind
@every_way
async def test_a_client_that_goes_is_gone_for_the_app_and_for_nobody_else(
    world: World, carried: str, kind: str
) -> None:
    path = f"/gone-{carried[-1]}-{kind}"
    held = world.app.scripts[path] = Held()
    stays = await asyncio.to_thread(opened, world, carried, kind, head(path, kind))
    taken(held.begun)
    # More than Envoy takes for an attack on one connection (500 streams, half of them reset).
    for _ in range(300):
        goes = await asyncio.to_thread(opened, world, carried, kind, head(path, kind))
        await asyncio.to_thread(taken, held.begun)
        goes.close()
    for _ in range(300):
        await asyncio.to_thread(taken, held.gone)
    held.go.set()
    with stays:
        answer = await asyncio.to_thread(stays.read_answer)
    assert answer.startswith("HTTP/1.1 200")


@every_kind
@every_way
async def test_a_request_may_wait_as_long_as_it_takes_beside_others(
    world: World, carried: str, kind: str
) -> None:
    path = f"/polled-{carried[-1]}-{kind}"
    held = world.app.scripts[path] = Held()
    wires = [
        await asyncio.to_thread(opened, world, carried, kind, head(path, kind))
        for _ in range(100)
    ]
    for _ in wires:
        await asyncio.to_thread(taken, held.begun)
    # All of them are with the app, and others are answered.
    assert (await asyncio.to_thread(get, world, carried, kind, "/x")).startswith(
        "HTTP/1.1 200"
    )
    held.go.set()
    for wire in wires:
        with wire:
            answer = await asyncio.to_thread(wire.read_answer)
            assert answer.startswith("HTTP/1.1 200")


@every_kind
async def test_a_peer_that_lacks_http_2_gets_http_1_and_as_many_at_once(
    tmp_path: Path, kind: str
) -> None:
    async with running(tmp_path, has_http2=False, ways={"HTTP/2": ""}) as world:
        held = world.app.scripts["/held"] = Held()
        wires = [
            await asyncio.to_thread(opened, world, "HTTP/2", kind, head("/held", kind))
            for _ in range(50)
        ]
        for _ in wires:
            await asyncio.to_thread(taken, held.begun)
        assert world.counted("server", "downstream_rq_http2_total") == 0
        held.go.set()
        for wire in wires:
            with wire:
                answer = await asyncio.to_thread(wire.read_answer)
                assert answer.startswith("HTTP/1.1 200")


# how much may be on its way
# ---------------------------------------------------------------------------------------


def _flood(connection: socket.socket, request: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
    part = bytes(2**20)
    for _ in range(LARGE // len(part)):
        connection.sendall(part)


@every_kind
@every_way
async def test_answers_that_nobody_reads_hold_nobody_up(
    world: World, carried: str, kind: str
) -> None:
    world.app.scripts["/flood"] = _flood
    stalled = []
    for _ in range(20):
        wire = await asyncio.to_thread(
            opened, world, carried, kind, head("/flood", kind)
        )
        await asyncio.to_thread(wire.read_head)
        stalled.append(wire)
    for _ in range(20):
        answer = await asyncio.to_thread(get, world, carried, kind, "/beside")
        assert answer.startswith("HTTP/1.1 200")
    # A whole large one, too, and those that were left alone in the end.
    for wire in (
        await asyncio.to_thread(opened, world, carried, kind, head("/flood", kind)),
        stalled[0],
    ):
        text = await asyncio.to_thread(_length, wire)
        assert text == LARGE
    for wire in stalled:
        wire.close()


def _length(wire: Wire) -> int:
    """How much of a large body is left, with the head if it was not read."""
    total = bytearray(1)
    read = 0
    first = wire.recv(9)
    rest = b"" if first.startswith(b"HTTP/1.1 ") is False else first
    if rest:
        wire.read_head()
    else:
        read = len(first)
    while read < LARGE and (total := bytearray(wire.recv(2**20))):
        read += len(total)
    return read


@every_kind
@every_way
async def test_an_app_that_does_not_read_holds_nobody_up(
    world: World, carried: str, kind: str
) -> None:
    go = threading.Event()
    got: list[int] = []

    def slow(connection: socket.socket, request: str) -> None:
        assert go.wait(PATIENCE_S)
        got.append(len(body_of(connection, request)))
        connection.sendall(OK.encode())

    path = f"/slow-{carried[-1]}-{kind}"
    world.app.scripts[path] = slow
    text = head(path, kind, f"Content-Length: {LARGE}", method="POST")
    senders = []
    for _ in range(5):
        wire = await asyncio.to_thread(opened, world, carried, kind, text)
        sender = threading.Thread(target=wire.sendall, args=(bytes(LARGE),))
        sender.start()
        senders.append((wire, sender))
    await asyncio.to_thread(
        soon, lambda: len(world.app.seen[path]) == 5, "all are with the app"
    )
    for _ in range(20):
        answer = await asyncio.to_thread(get, world, carried, kind, "/beside")
        assert answer.startswith("HTTP/1.1 200")
    go.set()
    for wire, sender in senders:
        with wire:
            assert (await asyncio.to_thread(wire.read_answer)).startswith(
                "HTTP/1.1 200"
            )
            await asyncio.to_thread(sender.join)
    assert got == [LARGE] * 5


async def test_a_large_answer_is_not_slowed_down(
    world: World, record_property: object
) -> None:
    """Recorded, not judged: no verdict depends on speed."""
    world.app.scripts["/flood"] = _flood
    for carried in WAYS:
        start = time.monotonic()
        wire = await asyncio.to_thread(
            opened, world, carried, "declared", head("/flood", "declared")
        )
        assert await asyncio.to_thread(_length, wire) == LARGE
        took = time.monotonic() - start
        print(f"{carried}: {LARGE / took / 2**20:.0f} MiB/s")
