"""The registrar when Docker or Consul misbehave: real ones behind a proxy that refuses, breaks or
delays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from registrar_rig import Agent, Host, consul, host, plain, registrar, until

__all__ = ["consul", "host"]
pytestmark = [pytest.mark.docker, pytest.mark.consul]
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix(
    "unix://"
)
Fault = Callable[[web.Request, bytes], Awaitable[web.StreamResponse | None]]


class Proxy:
    """Forwards HTTP; `fault` may answer instead. `streams` are the answers that are still being
    sent.
    """

    def __init__(
        self, target: str, connector: Callable[[], aiohttp.BaseConnector]
    ) -> None:
        self._target = target
        self._connector = connector
        self.fault: Fault | None = None
        self.seen: list[tuple[str, str]] = []
        self.streams: list[web.Request] = []
        self.port = 0

    async def forward(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.method, request.path))
        if self.fault and (answer := await self.fault(request, body)):
            return answer
        assert self.http
        async with self.http.request(
            request.method,
            self._target + request.raw_path,
            data=body,
            headers=request.headers,
        ) as upstream:
            answer = web.StreamResponse(status=upstream.status)
            for name in ("Content-Type", "X-Consul-Index"):
                if name in upstream.headers:
                    answer.headers[name] = upstream.headers[name]
            await answer.prepare(request)
            self.streams.append(request)
            try:
                async for chunk in upstream.content.iter_any():
                    await answer.write(chunk)
                await answer.write_eof()
            finally:
                self.streams.remove(request)
            return answer

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        timeout = aiohttp.ClientTimeout(total=None)
        self.http = aiohttp.ClientSession(connector=self._connector(), timeout=timeout)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.forward)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await self.http.close()
            await runner.cleanup()

    def break_streams(self) -> int:
        """Cut the answers that are being sent."""
        cut = [r for r in self.streams if r.path.endswith("/events")]
        for request in cut:
            assert request.transport
            request.transport.abort()
        return len(cut)


def docker_proxy() -> Proxy:
    return Proxy("http://docker", lambda: aiohttp.UnixConnector(SOCKET))


def consul_proxy(agent: Agent) -> Proxy:
    return Proxy(agent.url, aiohttp.TCPConnector)


class Front(Agent):
    """The agent as seen through a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(ports=[proxy.port])


async def only_reads(request: web.Request, _: bytes) -> web.StreamResponse | None:
    path = (
        "/" + request.path.lstrip("/").partition("/")[2]
        if request.path.startswith("/v1.")
        else request.path
    )
    allowed = request.method == "GET" and path.startswith(
        ("/containers", "/events", "/info")
    )
    return None if allowed else web.Response(status=403, text="Forbidden")


async def test_reading_is_enough_behind_a_socket_filter(
    consul: Agent, host: Host
) -> None:
    async with docker_proxy().running() as proxy:
        proxy.fault = only_reads
        pod, other = host.pod(), plain(host)
        host.member("app", pod)
        async with registrar(consul, host, base_url=f"tcp://127.0.0.1:{proxy.port}"):

            async def listed(count: int) -> bool:
                return len(await consul.services()) == count

            await until(lambda: listed(2))
            pod.restart(timeout=1)

            async def refused() -> bool:
                return any(method == "POST" for method, _ in proxy.seen)

            await until(refused)
            other.stop(timeout=1)
            await until(lambda: listed(0))


async def test_a_broken_stream_of_events_loses_nothing(
    consul: Agent, host: Host
) -> None:
    async with docker_proxy().running() as proxy:
        first = plain(host, "first")
        async with registrar(consul, host, base_url=f"tcp://127.0.0.1:{proxy.port}"):
            await until(consul.services)
            down = True

            async def away(request: web.Request, _: bytes) -> web.StreamResponse | None:
                return web.Response(status=500, text="restarting") if down else None

            proxy.fault = away
            assert proxy.break_streams() == 1
            second = plain(host, "second")
            first.remove(force=True)
            down = False

            async def exact() -> bool:
                return list(await consul.services()) == [f"host-a:{second.name}:9080"]

            await until(exact, 10)


@pytest.mark.parametrize("status", [403, 429, 500])
async def test_a_refused_registration_is_tried_again_and_blocks_nobody(
    consul: Agent, host: Host, status: int
) -> None:
    async with consul_proxy(consul).running() as proxy:
        refusing = True
        tries: list[float] = []

        async def refuse(
            request: web.Request, body: bytes
        ) -> web.StreamResponse | None:
            if (
                request.path == "/v1/agent/service/register"
                and "bad" in json.loads(body)["ID"]
                and refusing
            ):
                tries.append(time.monotonic())
                return web.Response(status=status, text="no")
            return None

        proxy.fault = refuse
        async with registrar(Front(proxy), host):
            plain(host, "bad")
            plain(host, "good")

            async def listed(name: str) -> bool:
                return any(name in i for i in await consul.services())

            await until(lambda: listed("good"))

            async def tried_again() -> Any:
                return len(tries) >= 5

            await until(tried_again)
            # An event of the container is a reason to try at once.
            assert max(later - earlier for earlier, later in pairwise(tries)) >= 0.2, (
                "with pauses"
            )
            refusing = False
            await until(lambda: listed("bad"))


async def test_a_slow_answer_blocks_nobody(consul: Agent, host: Host) -> None:
    async with consul_proxy(consul).running() as proxy:
        answer = asyncio.Event()

        async def delay(request: web.Request, body: bytes) -> web.StreamResponse | None:
            if (
                request.path == "/v1/agent/service/register"
                and "slow" in json.loads(body)["ID"]
            ):
                await answer.wait()
            return None

        proxy.fault = delay
        async with registrar(Front(proxy), host):
            plain(host, "slow")
            good = plain(host, "good")

            async def listed(wanted: set[str]) -> bool:
                return {
                    i.split(":")[1].partition("-")[0] for i in await consul.services()
                } == wanted

            await until(lambda: listed({"good"}))
            good.stop(timeout=1)
            await until(lambda: listed(set()))
            answer.set()
            await until(lambda: listed({"slow"}))


async def test_many_starts_and_stops_end_exact(consul: Agent, host: Host) -> None:
    async with registrar(consul, host):
        containers = [
            plain(host, f"c{n}", command="sleep 1000", init=True) for n in range(6)
        ]
        for _ in range(2):
            for container in containers[::2]:
                container.kill()
            for container in containers[::2]:
                container.start()
        for container in containers[:3]:
            container.kill()
        running = {f"host-a:{c.name}:9080" for c in containers[3:]}

        async def exact() -> bool:
            return set(await consul.services()) == running

        await until(exact, 10)
