"""What the bridge's live tests run it with: a Consul agent of their own, and a registry followed
from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

from patience import SLACK
from ports import free_ports

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.model import EMPTY_CATALOG, Catalog
from dockermesh.registry.consul.registry import ConsulRegistry

Condition = Callable[[Catalog], bool]


class Agent:
    """A Consul server of our own; with `data` it keeps what it knows over a restart, without (-dev)
    it forgets.
    """

    def __init__(self, data: Path | None = None, **config: Any) -> None:
        self.ports = free_ports(4)
        self.data = data
        self.config = config
        self.settings = ConsulSettings(
            port=self.ports[0], token="root" if "acl" in config else ""
        )
        self.process: subprocess.Popen[bytes] | None = None
        self._client: ConsulClient | None = None

    @property
    def client(self) -> ConsulClient:
        if self._client is None:
            self._client = ConsulClient(self.settings)
        return self._client

    @property
    def _headers(self) -> dict[str, str]:
        return dict(self.client.prepare_headers())

    async def start(self) -> None:
        self.launch()
        await eventually(self._has_itself, 30.0)

    def launch(self) -> None:
        names = ("http", "server", "serf-lan", "serf-wan")
        flags = [f"-{n}-port={p}" for n, p in zip(names, self.ports, strict=True)]
        mode = (
            [f"-data-dir={self.data}", "-server", "-bootstrap-expect=1"]
            if self.data
            else ["-dev"]
        )
        if self.config:
            flags.append("-hcl=" + json.dumps(self.config))
        self.process = subprocess.Popen(
            [
                "consul",
                "agent",
                *mode,
                "-bind=127.0.0.1",
                "-dns-port=-1",
                "-grpc-port=-1",
                "-log-level=err",
                *flags,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def _has_itself(self) -> bool:
        with contextlib.suppress(Exception):
            return "consul" in await self.read("catalog/services")
        return False

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    async def read(self, path: str) -> Any:
        return await self.client.http.get(
            lambda r: json.loads(r.body), f"/v1/{path}", headers=self._headers
        )

    async def put(self, path: str, body: Any = None) -> None:
        data = "" if body is None else json.dumps(body)
        status = await self.client.http.put(
            lambda r: (r.code, r.body), f"/v1/{path}", data=data, headers=self._headers
        )
        assert status[0] == 200, status

    async def delete(self, path: str) -> None:
        status = await self.client.http.delete(
            lambda r: (r.code, r.body), f"/v1/{path}", headers=self._headers
        )
        assert status[0] == 200, status

    async def register(self, name: str, number: int = 1, **more: Any) -> None:
        body = {
            "Name": name,
            "ID": f"{name}-{number}",
            "Address": f"10.0.0.{number}",
            "Port": 9080,
        } | more
        await self.put("agent/service/register", body)

    async def fill(self, services: int, nodes: int = 5) -> None:
        """One instance of each service, quickly: by the catalog, on nodes without agents."""

        async def one(number: int) -> None:
            name, node = f"svc-{number}", f"node-{number % nodes}"
            service = {
                "ID": name,
                "Service": name,
                "Address": f"10.1.{number // 250}.{number % 250 + 1}",
                "Port": 80,
            }
            await self.put(
                "catalog/register",
                {"Node": node, "Address": "10.0.0.9", "Service": service},
            )

        for first in range(0, services, 20):
            await asyncio.gather(
                *(one(n) for n in range(first, min(first + 20, services)))
            )

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        if self._client is not None:
            await self._client.close()


class Followed:
    """A running registry and every catalog that it published."""

    def __init__(self, registry: ConsulRegistry) -> None:
        self.registry = registry
        self.catalogs: list[Catalog] = []
        self._changed = asyncio.Condition()

    @property
    def now(self) -> Catalog:
        return self.catalogs[-1] if self.catalogs else EMPTY_CATALOG

    def take(self, catalog: Catalog) -> None:
        self.catalogs.append(catalog)

    async def until(self, condition: Condition, seconds: float = 10.0) -> Catalog:
        try:
            await eventually(
                lambda: bool(self.catalogs) and condition(self.now), seconds
            )
        except TimeoutError:
            raise AssertionError(
                f"not so after {seconds * SLACK} s: {short(self.now)}; {self.registry.problem}"
            ) from None
        return self.now


@contextlib.asynccontextmanager
async def follow(settings: ConsulSettings, **options: Any) -> AsyncIterator[Followed]:
    registry = ConsulRegistry(settings, **options)
    followed = Followed(registry)
    task = asyncio.create_task(registry.run(followed.take))
    try:
        yield followed
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(condition: Callable[[], Any], seconds: float) -> None:
    """Wait until the condition (or the awaitable that it returns) holds."""
    end = time.monotonic() + seconds * SLACK
    while True:
        value = condition()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0.001)


def addresses(catalog: Catalog, name: str) -> list[str]:
    service = catalog.services.get(f"{name}.service.consul")
    return [e.address for e in service.endpoints] if service else []


def short(catalog: Catalog) -> str:
    names = {s.name: len(s.endpoints) for s in list(catalog.services.values())[:10]}
    return (
        f"{len(catalog.services)} services {names}, {len(catalog.workloads)} workloads,"
        f" {catalog.degraded!r}"
    )
