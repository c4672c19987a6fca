"""A proxy in front of the real Docker or Consul, which refuses, breaks or delays what passes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
from aiohttp import web
from registrar_rig import Agent

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
    async def running(self, path: str = "") -> AsyncIterator[Proxy]:
        """Listen on a port of 127.0.0.1, or on a socket at `path`."""
        timeout = aiohttp.ClientTimeout(total=None)
        self.http = aiohttp.ClientSession(connector=self._connector(), timeout=timeout)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self.forward)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        if path:
            await web.UnixSite(runner, path).start()
        else:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
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


async def only_reads(request: web.Request, _: bytes) -> web.StreamResponse | None:
    """A socket filter that lets a registrar see everything and touch nothing."""
    path = (
        "/" + request.path.lstrip("/").partition("/")[2]
        if request.path.startswith("/v1.")
        else request.path
    )
    allowed = request.method == "GET" and path.startswith(
        ("/containers", "/events", "/info")
    )
    return None if allowed else web.Response(status=403, text="Forbidden")
