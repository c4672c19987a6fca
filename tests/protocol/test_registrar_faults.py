"""The registrar when Docker or Consul misbehave: real ones behind a proxy that refuses, breaks or
delays.
"""

from __future__ import annotations

import asyncio
import json
import time
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web
from http_proxy import Proxy, consul_proxy, docker_proxy, only_reads
from registrar_rig import Agent, Host, consul, host, plain, registrar, until

__all__ = ["consul", "host"]
pytestmark = [pytest.mark.docker, pytest.mark.consul]


class Front(Agent):
    """The agent as seen through a proxy."""

    def __init__(self, proxy: Proxy) -> None:
        super().__init__(ports=[proxy.port])


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
