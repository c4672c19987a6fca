"""Two real Envoys hold a connection to an app that does not listen yet, as they hold requests."""

from __future__ import annotations

import asyncio
import datetime
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from patience import SLACK
from ports import free_ports
from tls_rig import Party, Proxy, bootstrap, request

from dockermesh.ca import Authority, new_material
from dockermesh.config.documents import read_text
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.mesh import state as meshes
from dockermesh.translate.mesh.settings import MeshSettings, istio_config
from dockermesh.translate.translator import Translator

pytestmark = [pytest.mark.binary, pytest.mark.asyncio]

HOST = "db.service.consul"
ROUNDS = 8
"""How often what comes and goes with the timing is tried."""
MODES = ["STRICT", "PERMISSIVE", "DISABLE"]


def mesh(listens: int, app: int, mode: str, hold_attempts: int) -> meshes.MeshState:
    """A database behind a proxy at `listens`, in this mode of mutual TLS."""
    config = f"""
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: db}}
spec:
  workloadSelector: {{labels: {{app: db}}}}
  ingress:
  - {{port: {{number: {listens}, name: tcp, protocol: TCP}}, defaultEndpoint: "127.0.0.1:{app}"}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: db}}
spec: {{mtls: {{mode: {mode}}}}}
"""
    workload = Workload(
        "1",
        "shop/db-1",
        "db",
        address="127.0.0.1",
        labels={"app": "db"},
        ports=(ServedPort("db", listens, "tcp"),),
    )
    endpoint = Endpoint("127.0.0.1", listens, workload=workload.name)
    service = Service("db", HOST, (Port(listens, Protocol.TCP),), (endpoint,))
    reading = read_text(config)
    assert not [f for f in reading.findings if f.is_error], reading.findings
    return meshes.build_mesh(
        Catalog({HOST: service}, {workload.name: workload}),
        config=istio_config(reading.resources),
        settings=MeshSettings(hold_attempts=hold_attempts),
    )


class World:
    """The port that a client dials, where the app will listen, and the server's admin."""

    def __init__(self) -> None:
        self.dialled, self.app, self.listens, self.admin, self.other = free_ports(5)

    async def refusals(self, admin: int = 0, direction: str = "inbound") -> int:
        """How often a proxy, the app's own if no other is asked, found nobody there."""
        _, text = await request(
            admin or self.admin, path="/stats?filter=upstream_cx_connect_fail$"
        )
        lines = [x for x in text.splitlines() if direction in x]
        return sum(int(line.rpartition(":")[2]) for line in lines)

    async def refused(
        self, times: int, admin: int = 0, direction: str = "inbound"
    ) -> None:
        """Wait until a proxy found nobody there so often."""

        async def is_often() -> bool:
            return await self.refusals(admin, direction) >= times

        await when(is_often)

    async def start_app(self) -> asyncio.Server:
        async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"hello")
            await writer.drain()
            writer.close()

        return await asyncio.start_server(greet, "127.0.0.1", self.app)


@asynccontextmanager
async def running(folder: Path, mode: str, hold_attempts: int) -> AsyncIterator[World]:
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority(new_material("cluster.local", now))
    db, web = (Party(folder / who, authority, "default", who) for who in ("db", "web"))
    world = World()
    state = mesh(world.listens, world.app, mode, hold_attempts)
    translator = Translator()
    translator.update(state)

    served = state.workloads["shop/db-1"]
    at_server = meshes.Proxy(
        served.name, labels=served.labels, address=served.address, workload=served
    )
    caller = Workload("3", "shop/web-1", "web", address="127.0.0.9")
    at_client = meshes.Proxy(caller.name, address=caller.address, workload=caller)
    source = names.listener(state.vips[HOST], world.listens)
    server = bootstrap(
        translator.snapshot(at_server),
        db,
        world.admin,
        {"in": ("virtualInbound", world.listens)},
    )
    client = bootstrap(
        translator.snapshot(at_client),
        web,
        world.other,
        {"out": (source, world.dialled)},
    )

    async with AsyncExitStack() as stack:
        # That they listen is asked of the admin: a connection to a port of theirs would be held.
        for name, made, admin in (
            ("server", server, world.admin),
            ("client", client, world.other),
        ):
            await stack.enter_async_context(
                Proxy(folder / f"{name}.json", made, [admin])
            )
            await is_ready(admin)
        yield world


async def when(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it; the test's own deadline ends that."""
    while not await condition():  # noqa: ASYNC110 (what is waited for is another process)
        await asyncio.sleep(0.02)


async def is_ready(admin: int) -> None:
    async def is_live() -> bool:
        return "LIVE" in str((await request(admin, path="/ready"))[1])

    await when(is_live)


@pytest.mark.parametrize("mode", MODES)
async def test_a_connection_waits_for_an_app_that_does_not_listen_yet(
    tmp_path: Path, mode: str
) -> None:
    async with (
        running(tmp_path, mode, hold_attempts=100) as world,
        asyncio.timeout(30 * SLACK),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.dialled)
        await world.refused(4)

        async with await world.start_app():
            assert await reader.read() == b"hello"
        writer.close()


async def test_a_connection_is_reset_when_nobody_comes(tmp_path: Path) -> None:
    """By the app's proxy; a client's own hands on no reset, lest bytes get lost by it."""
    async with (
        running(tmp_path, "DISABLE", hold_attempts=3) as world,
        asyncio.timeout(30 * SLACK),
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", world.listens)
        writer.write(b"startup")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert await world.refusals() == 1 + 3 * 4, "an app that may still start"


@pytest.mark.parametrize("mode", MODES)
async def test_the_last_words_of_an_app_that_does_not_listen_any_more_arrive(
    tmp_path: Path, mode: str
) -> None:
    """Its kernel resets a connection that is closed over unread bytes, after what was sent."""

    def refuse() -> None:
        connection, _ = app.accept()
        with connection:
            connection.recv(3)
            connection.sendall(b"too many clients")

    async with running(tmp_path, mode, hold_attempts=3) as world:
        with socket.create_server(("127.0.0.1", world.app)) as app:
            for _ in range(ROUNDS):
                refusing = asyncio.create_task(asyncio.to_thread(refuse))
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", world.dialled
                )
                async with asyncio.timeout(30 * SLACK):
                    writer.write(b"hello, server")
                    assert await reader.read() == b"too many clients"
                    await refusing
                writer.close()


@pytest.mark.parametrize("mode", MODES)
async def test_the_last_words_of_a_client_that_does_not_listen_any_more_arrive(
    tmp_path: Path, mode: str
) -> None:
    """As of `echo set x | nc`, which ends before it has read the greeting."""

    def say() -> None:
        with socket.create_connection(("127.0.0.1", world.dialled)) as connection:
            # The greeting is there, and stays unread.
            select.select([connection], [], [])
            connection.sendall(b"set x")

    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        heard.put_nowait(await reader.read())
        writer.close()

    async with (
        running(tmp_path, mode, hold_attempts=3) as world,
        await asyncio.start_server(greet, "127.0.0.1", world.app),
    ):
        for _ in range(ROUNDS):
            async with asyncio.timeout(30 * SLACK):
                await asyncio.to_thread(say)
                assert await heard.get() == b"set x"


async def test_a_connection_to_a_proxy_that_is_away_waits_for_it(
    tmp_path: Path,
) -> None:
    world = World()
    state = mesh(world.listens, world.app, "DISABLE", 100)
    translator = Translator()
    translator.update(state)
    caller = Workload("3", "shop/web-1", "web", address="127.0.0.9")
    at_client = meshes.Proxy(caller.name, address=caller.address, workload=caller)
    now = datetime.datetime.now(datetime.UTC)
    web = Party(
        tmp_path / "web", Authority(new_material("cluster.local", now)), "default", "w"
    )
    source = names.listener(state.vips[HOST], world.listens)
    client = bootstrap(
        translator.snapshot(at_client),
        web,
        world.other,
        {"out": (source, world.dialled)},
    )
    world.app = world.listens

    async with (
        Proxy(tmp_path / "client.json", client, [world.other]),
        asyncio.timeout(30 * SLACK),
    ):
        await is_ready(world.other)
        reader, writer = await asyncio.open_connection("127.0.0.1", world.dialled)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", world.listens)) != 0
        await world.refused(4, world.other, "outbound")
        async with await world.start_app():
            assert await reader.read() == b"hello"
        writer.close()
