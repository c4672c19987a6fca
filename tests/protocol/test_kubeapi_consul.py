"""The config API over a real Consul: two control planes over one store, and Consul gone in the
middle.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from patience import SLACK
from ports import free_ports

from dockermesh.consul.settings import ConsulSettings
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.resources import make_api_app
from dockermesh.model.contract import KEY_HISTORY
from dockermesh.registry.consul.config_store import ConsulConfigStore
from dockermesh.registry.consul.documents import ConsulDocuments

pytestmark = pytest.mark.consul
RULES = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
RULE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "DestinationRule",
    "metadata": {"name": "a"},
    "spec": {"host": "a"},
}


class Rig:
    def __init__(self) -> None:
        self.clients: list[TestClient[Any, Any]] = []
        self.caches: list[ObjectCache] = []
        self.agent: asyncio.subprocess.Process | None = None
        self.port = 0

    async def start_consul(self) -> None:
        ports = free_ports(4)
        names = ("http", "server", "serf-lan", "serf-wan")
        self.port = ports[0]
        self.agent = await asyncio.create_subprocess_exec(
            *(
                shutil.which("consul") or "consul",
                "agent",
                "-dev",
                "-dns-port=-1",
                "-grpc-port=-1",
            ),
            *(f"-{name}-port={port}" for name, port in zip(names, ports, strict=True)),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(40 * SLACK), aiohttp.ClientSession() as http:
            while True:
                with suppress(aiohttp.ClientError):
                    async with http.get(
                        f"http://127.0.0.1:{self.port}/v1/status/leader"
                    ) as answer:
                        if answer.status == 200 and len(await answer.text()) > 4:
                            return
                await asyncio.sleep(0.1)

    async def stop_consul(self) -> None:
        if self.agent is not None and self.agent.returncode is None:
            self.agent.kill()
            await self.agent.wait()

    async def ask(
        self, which: int, method: str, path: str, body: Any = None
    ) -> tuple[int, Any]:
        kind = (
            "application/merge-patch+json" if method == "PATCH" else "application/json"
        )
        data = None if body is None else json.dumps(body)
        async with self.clients[which].request(
            method, path, data=data, headers={"Content-Type": kind}
        ) as answer:
            return answer.status, await answer.json()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    found = Rig()
    await found.start_consul()
    following = []
    async with AsyncExitStack() as stack:
        for _ in range(2):
            store = ConsulConfigStore(ConsulSettings(port=found.port))
            documents = ConsulDocuments(
                ConsulSettings(port=found.port), KEY_HISTORY, "the history"
            )
            stack.push_async_callback(documents.close)
            cache = ObjectCache()

            def publish(
                stored: Any,
                cache: ObjectCache = cache,
                store: ConsulConfigStore = store,
            ) -> None:
                cache.update(stored, store.index)

            following.append(asyncio.create_task(store.follow(publish)))
            async with asyncio.timeout(20 * SLACK):
                while not cache.is_read:
                    await cache.wait()
            client = TestClient(
                TestServer(make_api_app(store, cache, None, history=History(documents)))
            )
            found.clients.append(await stack.enter_async_context(client))
            found.caches.append(cache)
        yield found
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    await found.stop_consul()


async def test_writers_on_two_control_planes_lose_no_update(rig: Rig) -> None:
    created = await rig.ask(0, "POST", RULES, RULE)
    assert created[0] == 201
    await rig.caches[1].wait_for(
        "networking.istio.io/DestinationRule/default/a", 0, 10 * SLACK
    )
    patches = [{"metadata": {"labels": {f"l{i}": "x"}}} for i in range(10)]
    done = await asyncio.gather(
        *(rig.ask(i % 2, "PATCH", f"{RULES}/a", p) for i, p in enumerate(patches))
    )
    lost = [body["reason"] for code, body in done if code != 200]
    assert set(lost) <= {"Conflict"}
    latest = max(
        int(body["metadata"]["resourceVersion"]) for code, body in done if code == 200
    )
    async with asyncio.timeout(20 * SLACK):
        for cache in rig.caches:
            while cache.version < latest:
                await cache.wait()
    answers = [await rig.ask(which, "GET", f"{RULES}/a") for which in (0, 1)]
    assert len(answers[0][1]["metadata"]["labels"]) == 10 - len(lost)
    # Both agree about versions, so a client may go from one to the other.
    assert answers[0][1] == answers[1][1]


async def test_a_rollback_restores_everything_in_one_step_and_numbers_are_shared(
    rig: Rig,
) -> None:
    for name in ("a", "b"):
        assert (await rig.ask(0, "POST", RULES, {**RULE, "metadata": {"name": name}}))[
            0
        ] == 201
    key = "networking.istio.io/DestinationRule/default/b"
    await rig.caches[1].wait_for(key, 0, 10 * SLACK)
    await rig.ask(1, "PATCH", f"{RULES}/b", {"spec": {"host": "changed"}})
    await rig.ask(1, "DELETE", f"{RULES}/a")
    _, history = await rig.ask(0, "GET", "/dockermesh/history")
    listed = [(e["number"], e["resources"][0]["action"]) for e in history["entries"]]
    assert listed == [(4, "deleted"), (3, "configured"), (2, "created"), (1, "created")]
    code, answer = await rig.ask(1, "POST", "/dockermesh/history/2/rollback")
    assert (code, {c["resource"]: c["action"] for c in answer["changes"]}) == (
        200,
        {
            "DestinationRule default/a": "created",
            "DestinationRule default/b": "configured",
        },
    )
    _, found = await rig.ask(1, "GET", RULES)
    assert {d["metadata"]["name"]: d["spec"]["host"] for d in found["items"]} == {
        "a": "a",
        "b": "a",
    }
    _, history = await rig.ask(1, "GET", "/dockermesh/history")
    assert [r["action"] for r in history["entries"][0]["resources"]] == [
        "created",
        "configured",
    ]
    code, answer = await rig.ask(0, "POST", "/dockermesh/history/9/rollback")
    assert code == 404 and "from 1 to 5" in answer["message"]


async def test_a_step_of_which_one_part_is_stale_is_not_done_at_all(rig: Rig) -> None:
    await rig.ask(0, "POST", RULES, RULE)
    key = "networking.istio.io/DestinationRule/default/{}"
    stored = rig.caches[0].objects[key.format("a")]
    store = ConsulConfigStore(ConsulSettings(port=rig.port))
    new = {**stored.resource, "spec": {"host": "x"}}
    try:
        assert not await store.replace(
            {key.format("n"): (0, new), key.format("a"): (stored.version - 1, None)}
        )
        assert (await rig.ask(0, "GET", f"{RULES}/n"))[0] == 404
        assert await store.replace(
            {key.format("n"): (0, new), key.format("a"): (stored.version, None)}
        )
        await rig.caches[0].wait_for(key.format("a"), stored.version, 10 * SLACK)
        assert (await rig.ask(0, "GET", f"{RULES}/n"))[1]["spec"]["host"] == "x"
    finally:
        await store.close()


async def test_a_stale_replace_is_refused_by_the_other_control_plane_too(
    rig: Rig,
) -> None:
    _, old = await rig.ask(0, "POST", RULES, RULE)
    await rig.ask(0, "PATCH", f"{RULES}/a", {"spec": {"host": "b"}})
    # The second may not have seen the change yet: then Consul's compare-and-set refuses.
    await rig.caches[1].wait_for(
        "networking.istio.io/DestinationRule/default/a", 0, 10 * SLACK
    )
    code, answer = await rig.ask(1, "PUT", f"{RULES}/a", {**old, "spec": {"host": "c"}})
    assert (code, answer["reason"]) == (409, "Conflict")
    assert (await rig.ask(0, "GET", f"{RULES}/a"))[1]["spec"] == {"host": "b"}


async def test_many_writes_in_a_row_are_not_slowed_down_by_the_watch(rig: Rig) -> None:
    async with asyncio.timeout(10 * SLACK):
        for i in range(30):
            code, _ = await rig.ask(
                0, "POST", RULES, {**RULE, "metadata": {"name": f"r{i}"}}
            )
            assert code == 201
            code, _ = await rig.ask(0, "GET", f"{RULES}/r{i}")
            assert code == 200


async def test_a_deletion_moves_the_version_on(rig: Rig) -> None:
    await rig.ask(0, "POST", RULES, RULE)
    before = (await rig.ask(0, "GET", RULES))[1]["metadata"]["resourceVersion"]
    assert (await rig.ask(0, "DELETE", f"{RULES}/a"))[0] == 200
    after = (await rig.ask(0, "GET", RULES))[1]["metadata"]["resourceVersion"]
    assert int(after) > int(before)


async def test_consul_gone_is_an_error_and_the_old_state_is_still_served(
    rig: Rig,
) -> None:
    await rig.ask(0, "POST", RULES, RULE)
    await rig.stop_consul()
    code, answer = await rig.ask(0, "PATCH", f"{RULES}/a", {"spec": {"host": "b"}})
    assert (code, answer["reason"]) == (503, "ServiceUnavailable")
    assert "Consul" in answer["message"]
    code, answer = await rig.ask(0, "GET", f"{RULES}/a")
    assert (code, answer["spec"]) == (200, {"host": "a"})


async def test_consul_that_goes_away_during_a_write_leaves_the_old_state_and_an_error(
    rig: Rig,
) -> None:
    await rig.ask(0, "POST", RULES, RULE)
    assert rig.agent is not None
    rig.agent.send_signal(signal.SIGSTOP)
    writing = asyncio.create_task(
        rig.ask(0, "PATCH", f"{RULES}/a", {"spec": {"host": "b"}})
    )
    done, _ = await asyncio.wait([writing], timeout=0.5)
    assert not done, "the write was to be under way"
    await rig.stop_consul()
    code, answer = await writing
    assert code in {503, 504}, answer
    code, answer = await rig.ask(0, "GET", f"{RULES}/a")
    assert (code, answer["spec"]) == (200, {"host": "a"})
