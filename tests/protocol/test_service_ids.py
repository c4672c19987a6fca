"""Who has a `SERVICE_ID`, by a registrar with a real Consul agent; the engine is made up, so that
its containers have the times that count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from registrar_rig import Agent, consul, until

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar

__all__ = ["consul"]
pytestmark = pytest.mark.consul


class MadeUp:
    """An engine without a daemon; of its events there are none."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, Any]] = {}

    def run(self, name: str, created: int, address: str) -> None:
        when = f"2026-11-01T00:00:0{created}Z"
        self.containers[name * 64] = {
            "Id": name * 64,
            "Name": f"/{name}",
            "Created": when,
            "Config": {
                "Image": name,
                "Env": [f"SERVICE_NAME={name}", "SERVICE_ID=vault-1"],
                "ExposedPorts": {"80/tcp": {}},
            },
            "HostConfig": {"NetworkMode": "n"},
            "NetworkSettings": {"Networks": {"n": {"IPAddress": address}}},
            "State": {"Running": True, "Status": "running", "StartedAt": when},
        }

    async def list_containers(self) -> list[dict[str, Any]]:
        return [{"Id": i, "State": "running"} for i in self.containers]

    async def inspect(self, container: str) -> dict[str, Any] | None:
        return self.containers.get(container)

    async def image_config(self, image: str) -> dict[str, Any] | None:
        return {}

    async def logs(self, container: str, since: int) -> str:
        return ""

    async def started(self) -> str:
        return ""

    async def subscribe(self, since: int = 0) -> Any:
        return Silence()


class Silence:
    """A stream without events."""

    def __aiter__(self) -> Silence:
        return self

    async def __anext__(self) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return None


@contextlib.asynccontextmanager
async def registrar(agent: Agent, engine: Any, host: str) -> AsyncIterator[None]:
    client = ConsulClient(ConsulSettings(port=agent.ports[0]))
    options = Options(hostname=host, host=host, internal=True)
    running = Registrar(
        engine, ConsulSink(client, host), options, heal=False, resync=0.1
    )
    task = asyncio.create_task(running.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_an_id_stays_with_who_had_it_first(consul: Agent) -> None:
    async def names() -> dict[str, str]:
        return {i: s["Service"] for i, s in (await consul.services()).items()}

    async def becomes(wanted: dict[str, str]) -> None:
        async def is_so() -> bool:
            return await names() == wanted

        await until(is_so)

    engine = MadeUp()
    engine.run("v", 1, "10.0.0.1")
    async with registrar(consul, engine, "host-a"):
        await becomes({"vault-1": "v"})
        engine.run("e", 2, "10.0.0.9")
        both = {"vault-1": "v", "host-a:e:80": "e"}
        await becomes(both)

    # A new registrar sees both at once: at no time does the other one have the id.
    async with registrar(consul, engine, "host-a"):
        for _ in range(20):
            assert await names() == both
            await asyncio.sleep(0.05)

    elsewhere = MadeUp()
    elsewhere.run("x", 0, "10.0.1.9")
    async with registrar(consul, elsewhere, "host-b"):
        await becomes(both | {"host-b:x:80": "x"})

    async with registrar(consul, engine, "host-a"):
        del engine.containers["v" * 64]
        await becomes({"vault-1": "e", "host-b:x:80": "x"})
