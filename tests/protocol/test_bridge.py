"""The bridge against a real Consul: start, changes, health, restarts, limits, ACLs (F3, F18,
F20).
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from bridge_rig import Agent, addresses, eventually, follow
from patience import SLACK

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.settings import ConsulSettings
from dockermesh.model import Catalog, Health, Workload
from dockermesh.registry import StoredResource
from dockermesh.registry.consul.config_store import ConsulConfigStore

pytestmark = pytest.mark.consul


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as agent:
        yield agent


async def test_the_first_catalog_is_whole(agent: Agent) -> None:
    await agent.fill(60)
    workload = Workload("id", "p/a-1")
    await agent.client.kv.put(
        "dockermesh/workloads/h/p/a-1", json.dumps(workload.to_dict())
    )
    async with follow(agent.settings) as followed:
        catalog = await followed.until(lambda _: True)
        assert len(followed.catalogs[0].services) == 60
        assert followed.catalogs[0].workloads == {"p/a-1": workload}
        assert catalog.degraded == ""


async def test_changes_are_seen_at_once_and_touch_nothing_else(agent: Agent) -> None:
    await agent.fill(100)
    latencies = []
    async with follow(agent.settings) as followed:
        before = await followed.until(lambda c: len(c.services) == 100)
        for n in range(1, 10):
            begun = time.perf_counter()
            await agent.register("svc-7", n)
            catalog = await followed.until(
                lambda c, n=n: f"10.0.0.{n}" in addresses(c, "svc-7")
            )  # type: ignore[misc]
            latencies.append(time.perf_counter() - begun)
            await asyncio.sleep(0.4)  # changes rarer than churn
        assert statistics.median(latencies) < 0.1 * SLACK
        others = set(catalog.services) - {"svc-7.service.consul"}
        assert all(catalog.services[h] is before.services[h] for h in others)


async def test_new_and_removed_services(agent: Agent) -> None:
    async with follow(agent.settings) as followed:
        await followed.until(lambda c: not c.services)
        await agent.register("web")
        await followed.until(lambda c: addresses(c, "web") == ["10.0.0.1"])
        await agent.put("agent/service/deregister/web-1")
        await followed.until(lambda c: not c.services)


async def test_half_of_the_checks_critical(agent: Agent) -> None:
    """F20: in 2 s out, in 2 s back."""
    for n in (1, 2, 3, 4):
        await agent.register("web", n, Check={"TTL": "600s", "Status": "passing"})

    def healthy(catalog: Catalog) -> int:
        endpoints = catalog.services["web.service.consul"].endpoints
        assert len(endpoints) == 4
        return sum(e.health is Health.HEALTHY for e in endpoints)

    async with follow(agent.settings) as followed:
        await followed.until(lambda c: len(addresses(c, "web")) == 4)
        await followed.until(lambda c: healthy(c) == 4)
        for n in (1, 2):
            await agent.put(f"agent/check/fail/service:web-{n}")
        await followed.until(lambda c: healthy(c) == 2, 2.0)
        for n in (1, 2):
            await agent.put(f"agent/check/pass/service:web-{n}")
        await followed.until(lambda c: healthy(c) == 4, 2.0)


async def test_hostile_names_do_no_harm(agent: Agent) -> None:
    for hostile in ("a|b", "a/../b", "google.com", "x" * 300, "ü"):
        await agent.register(hostile)
    await agent.register("meta", Address="169.254.169.254")
    await agent.register("web")
    async with follow(agent.settings) as followed:
        catalog = await followed.until(lambda c: bool(c.services))
        assert list(catalog.services) == ["web.service.consul"]


async def test_workloads_are_followed(agent: Agent) -> None:
    async with follow(agent.settings) as followed:
        await followed.until(lambda _: True)
        for index in (1, 2):
            workload = Workload("id", f"p/a-{index}")
            await agent.client.kv.put(
                f"dockermesh/workloads/h/{workload.name}",
                json.dumps(workload.to_dict()),
            )
            await followed.until(lambda c, w=workload: c.workloads.get(w.name) == w)  # type: ignore[misc]
        for left in (1, 0):
            key = f"dockermesh/workloads/h/p/a-{left + 1}"
            await agent.client.kv.delete(key)
            await followed.until(lambda c, n=left: len(c.workloads) == n)  # type: ignore[misc]


async def test_consul_killed_and_started_again(tmp_path: Path) -> None:
    """F18: nothing is lost during the outage, and changes are seen again after it."""
    async with Agent(tmp_path) as agent:
        for n in (1, 2, 3):
            await agent.register("web", n)
            await agent.register("api", n)
        async with follow(agent.settings) as followed:
            before = await followed.until(
                lambda c: len(addresses(c, "web") + addresses(c, "api")) == 6
            )
            seen = len(followed.catalogs)
            agent.kill()
            down = await followed.until(lambda c: c.degraded != "")
            assert "cannot be reached" in down.degraded
            assert down.services == before.services
            await agent.start()
            await followed.until(lambda c: c.degraded == "", 5.0)
            await agent.register("web", 4)
            after = await followed.until(lambda c: len(addresses(c, "web")) == 4)
            assert (
                after.services["api.service.consul"]
                is before.services["api.service.consul"]
            )
            assert all(len(addresses(c, "api")) == 3 for c in followed.catalogs[seen:])


async def test_consul_started_again_empty() -> None:
    """F19 with a real Consul: it forgot everything, so its indexes and its services are gone until
    re-registered.
    """
    async with Agent() as agent:
        for name in ("web", "api", "db"):
            for n in (1, 2):
                await agent.register(name, n)
        for _ in range(30):  # the index that the new Consul will not reach
            await agent.client.kv.put("other", str(time.monotonic()))
        async with follow(agent.settings) as followed:
            await followed.until(lambda c: len(c.services) == 3)
            agent.kill()
            await agent.start()
            await followed.until(lambda c: "vanished" in c.degraded, 20.0)
            for name in ("web", "api", "db"):
                for n in (1, 2):
                    await agent.register(name, n)
            await followed.until(lambda c: c.degraded == "", 5.0)
            await agent.register("web", 3)
            await followed.until(lambda c: len(addresses(c, "web")) == 3, 5.0)
            whole = followed.catalogs[
                [len(c.services) for c in followed.catalogs].index(3) :
            ]
            assert all(
                len(addresses(c, name)) >= 2
                for c in whole
                for name in ("web", "api", "db")
            )


async def test_no_consul_at_first(agent: Agent) -> None:
    """F3: without a registry nothing is published, and when it comes everything is."""
    agent.kill()
    async with follow(agent.settings) as followed:
        await eventually(lambda: "cannot be reached" in followed.registry.problem, 10.0)
        assert followed.catalogs == []
        await agent.start()
        await agent.register("web")
        await followed.until(lambda c: bool(c.services), 20.0)


@pytest.mark.parametrize("services", [400])
async def test_more_services_than_one_address_may_watch(
    agent: Agent, services: int
) -> None:
    """A stock Consul allows 200 connections per address: several loopback addresses serve, restarts
    included.
    """
    await agent.fill(services)
    for _restart in range(3):
        async with follow(agent.settings) as followed:
            await followed.until(lambda c: len(c.services) == services, 20.0)
            assert not followed.registry.few_connections
            # On a busy machine Consul may answer late, which is told until it does.
            await followed.until(lambda c: c.degraded == "", 20.0)


async def test_thousands_of_services_over_few_connections(agent: Agent) -> None:
    await agent.fill(2500)
    async with follow(agent.settings, budget=100) as followed:
        await followed.until(lambda c: len(c.services) == 2500, 60.0)
        assert followed.registry.few_connections
        await agent.register("svc-3", 1, Check={"TTL": "600s", "Status": "passing"})
        await followed.until(lambda c: len(addresses(c, "svc-3")) == 2, 3.0)
        for verb, health in (("fail", Health.UNHEALTHY), ("pass", Health.HEALTHY)):
            await agent.put(f"agent/check/{verb}/service:svc-3-1")
            await followed.until(
                lambda c, h=health: (
                    c.services["svc-3.service.consul"].endpoints[0].health is h
                ),  # type: ignore[misc]
                3.0,
            )
        await agent.put("agent/service/deregister/svc-3-1")
        await followed.until(lambda c: len(addresses(c, "svc-3")) == 1, 3.0)
        await agent.register("new")
        await followed.until(lambda c: addresses(c, "new") == ["10.0.0.1"], 3.0)


async def test_a_limit_lower_than_we_think() -> None:
    """Consul resets what is beyond its limit: the bridge falls back to few connections instead of
    missing changes.
    """
    async with Agent(limits={"http_max_conns_per_client": 40}) as agent:
        settings = replace(agent.settings, max_connections=1000, wait=2.0)
        agent.settings = settings
        await agent.fill(100)
        async with follow(settings) as followed:
            # For a moment all may have been read, before their next queries are refused.
            await followed.until(
                lambda c: (
                    followed.registry.few_connections
                    and len(c.services) == 100
                    and c.degraded == ""
                ),
                40.0,
            )


async def test_a_token_that_consul_refuses() -> None:
    async with Agent(
        acl={"enabled": True, "default_policy": "deny", "tokens": {"master": "root"}}
    ) as agent:
        async with follow(replace(agent.settings, token="wrong")) as followed:
            await eventually(lambda: "403" in followed.registry.problem, 10.0)
            assert "CONSUL_HTTP_TOKEN" in followed.registry.problem
            assert followed.catalogs == []
        async with follow(agent.settings) as followed:
            await followed.until(lambda c: c.degraded == "")


async def test_config_store(agent: Agent) -> None:
    store = ConsulConfigStore(agent.settings)
    seen: list[dict[str, StoredResource]] = []
    task = asyncio.create_task(
        store.follow(lambda resources: seen.append(dict(resources)))
    )
    key = "networking.istio.io/VirtualService/default/reviews"

    async def until(count: int) -> dict[str, StoredResource]:
        await eventually(lambda: seen and len(seen[-1]) == count, 10.0)
        return seen[-1]

    try:
        await until(0)
        assert await store.put(key, {"kind": "VirtualService"}, 0)
        stored = (await until(1))[key]
        assert stored.resource == {"kind": "VirtualService"}
        assert not await store.put(key, {"kind": "Other"}, 0)
        assert not await store.put(key, {"kind": "Other"}, stored.version - 1)
        assert await store.put(key, {"kind": "VirtualService", "n": 2}, stored.version)
        await eventually(lambda: seen[-1][key].version != stored.version, 10.0)
        assert not await store.delete(key, stored.version)
        await agent.client.kv.put("dockermesh/config/broken", "{")
        assert await store.delete(key, seen[-1][key].version)
        # What nobody can read is listed all the same, so that it can be replaced or deleted.
        assert [item.is_lost for item in (await until(1)).values()] == [True]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_unix_socket_token_file_and_credentials(tmp_path: Path) -> None:
    """What py-consul alone does not know arrives at the server."""
    requests: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(
            b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 2\r\n\r\n{}"
        )
        await writer.drain()
        writer.close()

    token = tmp_path / "token"
    token.write_text("secret\n")
    path = tmp_path / "consul.sock"
    server = await asyncio.start_unix_server(serve, str(path))
    settings = ConsulSettings(
        unix_socket=str(path),
        token_file=str(token),
        auth="u:p",
        namespace="team",
        datacenter="dc2",
        partition="x",
    )
    client = ConsulClient(settings)
    assert await client.catalog.services() == ("7", {})
    await client.close()
    server.close()
    (request,) = requests
    assert request.startswith(
        "GET /v1/catalog/services?dc=dc2&consistent=1&ns=team&partition=x "
    )
    assert "X-Consul-Token: secret" in request
    assert "Authorization: Basic dTpw" in request
