"""What the live tests of the registrar run it with: a real Docker engine and a real Consul agent.

The engine is shared with whatever else runs on the machine, also a mesh with a registrar that would
heal the tests' pods. So the registrar under test sees only containers that carry the test's own
label, and those carry the mesh's labels under a name that only it reads; everything else is the
real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import docker
import pytest
from patience import SLACK
from ports import free_ports

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.docker.async_engine import DockerEngine
from dockermesh.model import TRUST_PATH
from dockermesh.registrar.consul_sink import ConsulSink
from dockermesh.registrar.lease import HostLease
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar

IMAGE = "dockermesh-base:bookworm"
SCOPE = "dockermesh.test"
OF_MESH = "dockermesh.io/"
HIDDEN = "hidden.dockermesh.test/"
STAY = "trap 'exit 0' TERM; while :; do sleep 0.2; done"


class ScopedEngine(DockerEngine):
    """The engine as if only this test's containers existed."""

    def __init__(self, scope: str, base_url: str = "") -> None:
        super().__init__(base_url)
        self.scope = scope

    async def list_containers(self) -> list[dict[str, Any]]:
        return [
            c | {"Labels": shown(c["Labels"])}
            for c in await super().list_containers()
            if c["Labels"].get(SCOPE) == self.scope
        ]

    async def inspect(self, container: str) -> dict[str, Any] | None:
        found = await super().inspect(container)
        if not found or found["Config"]["Labels"].get(SCOPE) != self.scope:
            return None

        found["Config"]["Labels"] = shown(found["Config"]["Labels"])
        return found


def hidden(labels: dict[str, str]) -> dict[str, str]:
    """Labels that no mesh on the engine takes for its own."""
    return {name.replace(OF_MESH, HIDDEN, 1): text for name, text in labels.items()}


def shown(labels: dict[str, str]) -> dict[str, str]:
    """What `hidden` was given."""
    return {name.replace(HIDDEN, OF_MESH, 1): text for name, text in labels.items()}


@dataclass
class Agent:
    """A Consul agent of our own."""

    ports: list[int] = field(default_factory=lambda: free_ports(4))
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        names = ("http", "server", "serf-lan", "serf-wan")
        flags = [f"-{n}-port={p}" for n, p in zip(names, self.ports, strict=True)]
        self.process = subprocess.Popen(
            ["consul", "agent", "-dev", "-dns-port=-1", "-grpc-port=-1", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    async def get(self, path: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/v1/{path}") as answer,
        ):
            return (
                await answer.json(content_type=None) if answer.status == 200 else None
            )

    async def services(self) -> dict[str, Any]:
        return await self.get("agent/services") or {}

    async def is_led(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return bool(await self.get("status/leader"))
        return False


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 15.0) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds * SLACK
    while not (found := await condition()):
        assert time.monotonic() < end, f"not within {seconds * SLACK} s: {condition}"
        await asyncio.sleep(0.005)
    return found


@pytest.fixture
async def consul() -> AsyncIterator[Agent]:
    if not shutil.which("consul"):
        pytest.fail("the consul binary is missing")
    agent = Agent()
    agent.start()
    await until(agent.is_led, 40)
    yield agent
    agent.kill()


class Host:
    """Starts containers that carry the test's label and removes them all."""

    def __init__(self) -> None:
        self.api = docker.from_env()
        self.scope = uuid.uuid4().hex[:8]

    def run(self, name: str, command: str = STAY, **options: Any) -> Any:
        labels = {SCOPE: self.scope, **hidden(options.pop("labels", {}))}
        arguments = {
            "entrypoint": ["sh", "-c"],
            "command": [command],
            "detach": True,
            **options,
        }
        return self.api.containers.run(
            IMAGE, name=f"{name}-{self.scope}", labels=labels, **arguments
        )

    def pod(self, workload: str = "shop/reviews-1") -> Any:
        token = hashlib.sha256(b"secret").hexdigest()
        said = json.dumps(
            {"dockermesh": "attest", "workload": workload, "token_sha256": token}
        )
        labels = {
            "dockermesh.io/role": "pod",
            "dockermesh.io/workload": workload,
            "dockermesh.io/service": "reviews",
            "dockermesh.io/kind": "sidecar",
            "dockermesh.io/labels": '{"version":"v1"}',
            "com.docker.compose.project": "shop",
        }
        return self.run(
            "pod",
            f"echo '{said}'; {STAY}",
            labels=labels,
            ports={"9080/tcp": None},
            volumes=[f"/tmp:{TRUST_PATH}:ro"],
        )

    def member(self, role: str, pod: Any, **options: Any) -> Any:
        labels = {
            "dockermesh.io/role": role,
            "dockermesh.io/workload": "shop/reviews-1",
        }
        labels |= {"dockermesh.io/service": "reviews"}
        return self.run(
            role, labels=labels, network_mode=f"container:{pod.id}", **options
        )

    def close(self) -> None:
        for container in self.api.containers.list(
            all=True, filters={"label": f"{SCOPE}={self.scope}"}
        ):
            container.remove(force=True)
        self.api.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


@contextlib.asynccontextmanager
async def registrar(
    consul: Agent, host: Host, name: str = "host-a", **options: Any
) -> AsyncIterator[Registrar]:
    engine = ScopedEngine(host.scope, options.pop("base_url", ""))
    client = ConsulClient(ConsulSettings(port=consul.ports[0]))
    lease = HostLease(client, name, renew=0.5, ttl=10, grace=options.pop("grace", 60.0))
    sink = ConsulSink(client, name, lease=lease)
    settings = Options(hostname=name, host=name, internal=True)
    running = Registrar(engine, sink, settings, **options)
    task = asyncio.create_task(running.run())
    try:
        yield running
    finally:
        assert not task.done(), "the registrar never ends by itself"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()
        await engine.close()


EXPOSED = {
    "ports": {"9080/tcp": None},
    "environment": {"SERVICE_NAME": "web", "SERVICE_TAGS": "version|v1"},
}


def plain(host: Host, name: str = "web", **more: Any) -> Any:
    return host.run(name, **(EXPOSED | more))
