"""Health checks that the registrar asks itself, of real servers on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from aiohttp import web
from bridge_rig import eventually
from ports import free_ports
from tls_files import self_signed

from dockermesh.model.contract import META_CONTAINER, META_WORKLOAD
from dockermesh.registrar.checker import Checker
from dockermesh.registrar.mapping import Registration

Handler = Callable[[web.Request], Awaitable[web.Response]]


class App:
    """An app whose answer can be changed, and the requests that it got."""

    def __init__(self) -> None:
        self.status, self.text = 200, "fine"
        self.headers: dict[str, str] = {}
        self.asked: list[str] = []
        (self.port,) = free_ports(1)

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.method} {request.raw_path}")
        return web.Response(status=self.status, text=self.text, headers=self.headers)

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[App]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=tls).start()
        try:
            yield self
        finally:
            await runner.cleanup()

    def registration(
        self, path: str = "/up", *, container: str = "one", meshed: bool = True
    ) -> Registration:
        check = {
            "HTTP": f"http://127.0.0.1:{self.port}{path}",
            "Interval": "500ms",
            "Timeout": "2s",
        }
        return registration(self.port, check, container=container, meshed=meshed)


def registration(
    port: int,
    check: dict[str, str | bool | list[str]],
    *,
    container: str = "one",
    meshed: bool = True,
) -> Registration:
    meta = {
        META_CONTAINER: container,
        **({META_WORKLOAD: "shop/web-1"} if meshed else {}),
    }
    return Registration(
        id="web", name="web", port=port, address="127.0.0.1", meta=meta, own_check=check
    )


@contextlib.asynccontextmanager
async def asking(
    *registrations: Registration, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Checker]:
    told: list[str] = []
    checker = Checker(told.append, None if tls is None else lambda: tls)
    checker.follow("shop", registrations)
    try:
        yield checker
        assert set(told) <= {"shop"}
        assert told or not checker.results
    finally:
        await checker.close()


async def becomes(checker: Checker, status: str) -> str:
    """Wait for the status; what is said beside it."""

    def is_so() -> bool:
        return "web" in checker.results and checker.results["web"].status == status

    await eventually(is_so, 10)
    return checker.results["web"].output


async def test_an_answer_decides_as_it_does_for_consul() -> None:
    async with App().serving() as app, asking(app.registration()) as checker:
        assert "200 OK Output: fine" in await becomes(checker, "passing")
        app.status, app.text = 500, "no database"
        assert "no database" in await becomes(checker, "critical")
        app.status = 429
        await becomes(checker, "warning")
        app.status = 204
        await becomes(checker, "passing")
        assert set(app.asked) == {"GET /up"}


async def test_a_service_that_comes_up_need_not_wait_for_an_interval() -> None:
    app = App()
    check = {"HTTP": f"http://127.0.0.1:{app.port}/up", "Interval": "1h"}
    async with asking(registration(app.port, {**check})) as checker:
        await becomes(checker, "critical")
        async with app.serving():
            await becomes(checker, "passing")


async def test_a_check_goes_nowhere_but_to_its_own_service() -> None:
    other = App()
    async with App().serving() as app, other.serving():
        app.status, app.headers = (
            302,
            {"Location": f"http://127.0.0.1:{other.port}/secret"},
        )
        async with asking(app.registration()) as checker:
            await becomes(checker, "passing")
        async with asking(app.registration(f"@127.0.0.1:{other.port}/")) as checker:
            assert "must begin with '/'" in await becomes(checker, "critical")
    assert not other.asked


async def test_what_does_not_answer_in_time_is_critical() -> None:
    async def swallow(
        _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter
    ) -> None:
        await asyncio.sleep(3600)

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    check = {"HTTP": f"http://127.0.0.1:{port}/", "Timeout": "200ms", "Interval": "1s"}
    async with asking(registration(port, {**check})) as checker:
        assert await becomes(checker, "critical") == "no answer in time"
    server.close()


@pytest.mark.parametrize("meshed", [True, False])
async def test_a_policy_that_keeps_the_check_out_is_no_illness(meshed: bool) -> None:
    async with (
        App().serving() as app,
        asking(app.registration(meshed=meshed)) as checker,
    ):
        app.status, app.text = 403, "RBAC: access denied"
        await becomes(checker, "passing" if meshed else "critical")


async def test_where_plaintext_is_refused_a_certificate_is_shown_and_back(
    tmp_path: Path,
) -> None:
    """PeerAuthentication STRICT, then PERMISSIVE again; the client's side of it is in
    test_policies.
    """
    self_signed(tmp_path, "proxy")
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client.check_hostname = False
    client.load_verify_locations(tmp_path / "tls.crt")
    app = App()
    async with asking(app.registration(), tls=client) as checker:
        for context in (server, None, server):
            async with app.serving(context):
                await becomes(checker, "passing")
            await becomes(checker, "critical")
    async with (
        asking(app.registration(meshed=False), tls=client) as checker,
        app.serving(server),
    ):
        await becomes(checker, "critical")


async def test_a_certificate_of_a_stranger_is_not_believed(tmp_path: Path) -> None:
    self_signed(tmp_path, "stranger")
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
    )
    server.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client.check_hostname = False
    async with (
        App().serving(server) as app,
        asking(app.registration(), tls=client) as checker,
    ):
        await becomes(checker, "critical")
        assert not app.asked


async def test_tcp_and_grpc() -> None:
    async with App().serving() as app:
        async with asking(
            registration(app.port, {"TCP": f"127.0.0.1:{app.port}"})
        ) as checker:
            await becomes(checker, "passing")
        async with asking(
            registration(app.port, {"GRPC": f"127.0.0.1:{app.port}", "Timeout": "5s"})
        ) as checker:
            assert "gRPC" in await becomes(checker, "critical")
    answer = b"\x08\x01"

    async def check(
        _request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        return answer

    server = grpc.aio.server()
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(check)}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    asked = registration(port, {"GRPC": f"127.0.0.1:{port}", "Interval": "500ms"})
    async with asking(asked) as checker:
        await becomes(checker, "passing")
        answer = b"\x08\x02"
        assert "not SERVING" in await becomes(checker, "critical")
    await server.stop(None)


async def test_another_container_is_asked_anew_and_who_is_gone_not_at_all() -> None:
    witness = App()
    async with (
        App().serving() as app,
        witness.serving(),
        asking(app.registration()) as checker,
    ):
        await becomes(checker, "passing")
        app.status = 500
        checker.follow("shop", [app.registration(container="two")])
        assert "web" not in checker.results
        await becomes(checker, "critical")
        checker.follow("shop", [])
        assert not checker.results
        # Requests that are under way may still arrive before the witness is asked.
        checker.follow("shop", [witness.registration()])
        await becomes(checker, "passing")
        count = len(app.asked)
        await eventually(lambda: len(witness.asked) > 4, 10)
        assert len(app.asked) == count
