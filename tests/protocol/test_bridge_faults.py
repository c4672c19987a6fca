"""What a real Consul cannot be made to do on command: wrong indexes, an empty catalogue, churn,
hangs (F18, F19).

The server below answers as Consul's HTTP API does, with an index that the test sets and faults that
it switches on.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from bridge_rig import addresses, eventually, follow

from dockermesh.consul.settings import ConsulSettings
from dockermesh.model import Workload

WAIT = 0.5


class Script:
    """A catalogue, its index, and what is wrong with the server."""

    def __init__(self) -> None:
        self.services: dict[str, list[str]] = {}
        self.workloads: list[str] = []
        self.index = 100
        self.status = 200
        self.fixed_index = ""
        self.returns_early = False
        self.queries: Counter[str] = Counter()
        self.may_be_old: set[str] = set()
        self._changed = asyncio.Event()
        self.settings = ConsulSettings()

    def change(
        self, services: dict[str, list[str]] | None = None, *, index: int = 0
    ) -> None:
        if services is not None:
            self.services = dict(services)
        self.index = index or self.index + 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        self.queries[request.path] += 1
        if "consistent" not in request.query:
            self.may_be_old.add(request.path)
        asked = int(request.query.get("index", 0))
        if asked >= self.index and not self.returns_early and self.status == 200:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), WAIT)
        if self.status != 200:
            return web.Response(status=self.status, text="No cluster leader")
        headers = {"X-Consul-Index": self.fixed_index or str(self.index)}
        body = self._body(request.path)
        # Consul answers 404 for a prefix without keys.
        missing = request.path.startswith("/v1/kv/") and not body
        return web.Response(
            text=json.dumps(body), status=404 if missing else 200, headers=headers
        )

    def _body(self, path: str) -> Any:
        if path == "/v1/catalog/services":
            return {name: [] for name in self.services}
        if path.startswith("/v1/kv/"):
            return [_record(name) for name in self.workloads]
        name = path.removeprefix("/v1/health/service/")
        return [_entry(name, address) for address in self.services.get(name, [])]


def _record(name: str) -> dict[str, Any]:
    value = base64.b64encode(
        json.dumps(Workload("id", name).to_dict()).encode()
    ).decode()
    return {"Key": f"dockermesh/workloads/h/{name}", "ModifyIndex": 1, "Value": value}


def _entry(name: str, address: str) -> dict[str, Any]:
    service = {
        "ID": f"{name}-{address}",
        "Service": name,
        "Address": address,
        "Port": 80,
    }
    return {
        "Node": {"Node": "n", "Datacenter": "dc1"},
        "Service": service,
        "Checks": [],
    }


def catalogue(services: int, instances: int = 3) -> dict[str, list[str]]:
    return {
        f"s{n}": [f"10.0.{n}.{i}" for i in range(instances)] for n in range(services)
    }


@pytest.fixture
async def script() -> AsyncIterator[Script]:
    script = Script()
    app = web.Application()
    app.router.add_get("/{path:.*}", script.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    script.settings = ConsulSettings(port=runner.addresses[0][1], wait=WAIT)
    yield script
    await runner.cleanup()


async def test_a_restarted_server_is_never_asked_for_an_old_state(
    script: Script,
) -> None:
    script.services = catalogue(2)
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 2)
    assert {"/v1/catalog/services", "/v1/health/service/s0"} <= script.queries.keys()
    assert script.may_be_old == set()


async def test_an_index_that_goes_backwards(script: Script) -> None:
    script.services = catalogue(2)
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 2)
        script.change(index=5)  # a snapshot was restored
        await asyncio.sleep(
            WAIT * 1.5
        )  # the parked queries return with the lower index
        script.change(
            catalogue(2) | {"s1": ["10.0.1.0", "10.0.1.1", "10.0.1.2", "10.0.1.9"]}
        )
        await followed.until(lambda c: "10.0.1.9" in addresses(c, "s1"), WAIT)


@pytest.mark.parametrize("index", ["0", "-3", "100"])
async def test_an_index_that_never_rises_does_not_make_us_spin(
    script: Script, index: str
) -> None:
    script.services, script.fixed_index, script.returns_early = (
        catalogue(1),
        index,
        True,
    )
    begun = time.monotonic()
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 1)
        await asyncio.sleep(3.0)
        assert max(script.queries.values()) <= 8 + time.monotonic() - begun
        assert len(followed.catalogs) == 1


@pytest.mark.parametrize("index", ["", "x"], ids=["blank", "x"])
async def test_a_missing_or_broken_index_keeps_the_state(
    script: Script, index: str
) -> None:
    script.services = catalogue(2)
    async with follow(script.settings) as followed:
        before = await followed.until(lambda c: len(c.services) == 2)
        script.fixed_index = index or " "
        script.change({})
        await followed.until(lambda c: "something else" in c.degraded)
        assert followed.now.services == before.services
        script.fixed_index = ""
        script.change(catalogue(2))
        await followed.until(lambda c: c.degraded == "")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_errors_keep_the_state_and_pass(script: Script, status: int) -> None:
    script.services = catalogue(20)
    async with follow(script.settings) as followed:
        before = await followed.until(lambda c: len(c.services) == 20)
        script.status = status
        script.change()
        down = await followed.until(lambda c: str(status) in c.degraded)
        assert down.services == before.services
        await asyncio.sleep(2.0)
        script.status = 200
        script.change()
        await followed.until(lambda c: c.degraded == "", 8.0)
        assert all(c.services == before.services for c in followed.catalogs)


async def test_churn_costs_one_query_per_second_and_watch(script: Script) -> None:
    script.services = catalogue(3)
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 3)
        script.queries.clear()
        begun = time.monotonic()
        for n in range(300):
            script.change(catalogue(3) | {"s0": [f"10.1.{n % 250}.1"]})
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - begun
        assert max(script.queries.values()) <= seconds + 8
        await followed.until(lambda c: addresses(c, "s0") == ["10.1.49.1"], 2.0)


async def test_an_empty_catalogue_empties_nothing(script: Script) -> None:
    """F19: for some seconds Consul says that there is nothing, then everything is there again."""
    script.services = catalogue(30)
    script.workloads = ["p/a-1"]
    async with follow(script.settings) as followed:
        before = await followed.until(lambda c: len(c.services) == 30)
        script.change({})
        held = await followed.until(
            lambda c: "vanished" in c.degraded or "no services" in c.degraded
        )
        assert held.services == before.services
        await asyncio.sleep(2.0)
        script.change(catalogue(30))
        await followed.until(lambda c: c.degraded == "")
        assert all(c.services == before.services for c in followed.catalogs)
        script.change(catalogue(30) | {"s3": ["10.9.9.9"]})
        await followed.until(lambda c: addresses(c, "s3") == ["10.9.9.9"], 2.0)


async def test_one_service_may_go(script: Script) -> None:
    script.services = catalogue(3)
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 3)
        script.change({k: v for k, v in catalogue(3).items() if k != "s1"})
        catalog = await followed.until(lambda c: len(c.services) == 2, 2.0)
        assert catalog.degraded == ""


async def test_a_lone_change_is_published_at_once_and_a_storm_together(
    script: Script,
) -> None:
    script.services = catalogue(50)
    async with follow(script.settings) as followed:
        await followed.until(lambda c: len(c.services) == 50)
        await asyncio.sleep(0.1)
        seen, begun = len(followed.catalogs), time.monotonic()
        script.change(
            {name: [*found, "10.7.7.7"] for name, found in catalogue(50).items()}
        )
        await followed.until(
            lambda c: all(len(s.endpoints) == 4 for s in c.services.values())
        )
        # At most one in 20 ms, and so fewer than there were changes unless the machine is very
        # slow.
        assert len(followed.catalogs) - seen <= min(
            50, 2 + (time.monotonic() - begun) / 0.02
        )


async def test_connections_that_break_while_queries_are_parked(script: Script) -> None:
    """A server that closes the connection instead of answering."""
    broken = 0

    async def cut(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal broken
        broken += 1
        writer.transport.abort()

    server = await asyncio.start_server(cut, "127.0.0.1", 0)
    settings = ConsulSettings(port=server.sockets[0].getsockname()[1])
    async with follow(settings) as followed:
        await eventually(
            lambda: broken >= 4 and "cannot be reached" in followed.registry.problem,
            10.0,
        )
        assert followed.catalogs == []
    server.close()
