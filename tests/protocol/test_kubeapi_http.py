"""The config API by plain HTTP: races, watches, limits, and a store that fails."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from patience import SLACK

from dockermesh.errors import RegistryError
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.resources import make_api_app
from dockermesh.registry.folder.config_store import FolderConfigStore

RULES = "/apis/networking.istio.io/v1/namespaces/default/destinationrules"
MERGE = {"Content-Type": "application/merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}


class Store(FolderConfigStore):
    """A store that can be made to fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.failing = False

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        if self.failing:
            raise RegistryError("Consul at 127.0.0.1:8500 cannot be reached")
        await asyncio.sleep(0)
        return await super().put(key, resource, version)


class Rig:
    def __init__(
        self, client: TestClient[Any, Any], store: Store, cache: ObjectCache
    ) -> None:
        self.client, self.store, self.cache = client, store, cache

    async def ask(
        self, method: str, path: str, body: Any = None, **more: Any
    ) -> tuple[int, Any]:
        data = (
            body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        )
        headers = {
            "Authorization": "Bearer secret",
            "Content-Type": "application/json",
            **more.pop("headers", {}),
        }
        async with self.client.request(
            method, path, data=data, headers=headers, **more
        ) as answer:
            return answer.status, await answer.json()

    async def watch(self, query: str) -> aiohttp.ClientResponse:
        return await self.client.get(
            f"{RULES}?watch=true&{query}", headers={"Authorization": "Bearer secret"}
        )


async def event(stream: aiohttp.ClientResponse) -> Any:
    async with asyncio.timeout(10 * SLACK):
        return json.loads(await stream.content.readline())


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    store, cache = Store(tmp_path / "store"), ObjectCache(history=50)
    async with TestClient(TestServer(make_api_app(store, cache, "secret"))) as client:
        following = asyncio.create_task(
            store.follow(lambda stored: cache.update(stored, store.index))
        )
        while not cache.is_read:
            await cache.wait()
        yield Rig(client, store, cache)
        following.cancel()


def rule(name: str = "a", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name},
        "spec": {"host": "a", **spec},
    }


async def test_concurrent_patches_all_count(rig: Rig) -> None:
    await rig.ask("POST", RULES, rule())
    patches = [{"metadata": {"labels": {f"l{i}": "x"}}} for i in range(30)]
    done = await asyncio.gather(
        *(rig.ask("PATCH", f"{RULES}/a", p, headers=MERGE) for p in patches)
    )
    assert {code for code, _ in done} == {200}
    labels = (await rig.ask("GET", f"{RULES}/a"))[1]["metadata"]["labels"]
    assert len(labels) == 30


async def test_of_concurrent_replaces_of_one_version_one_wins(rig: Rig) -> None:
    _, current = await rig.ask("POST", RULES, rule())
    bodies = [{**current, "spec": {"host": f"h{i}"}} for i in range(10)]
    done = await asyncio.gather(*(rig.ask("PUT", f"{RULES}/a", b) for b in bodies))
    assert sorted(code for code, _ in done) == [200] + [409] * 9
    winner = next(body["spec"] for code, body in done if code == 200)
    assert (await rig.ask("GET", f"{RULES}/a"))[1]["spec"] == winner


async def test_of_concurrent_creates_one_wins(rig: Rig) -> None:
    done = await asyncio.gather(*(rig.ask("POST", RULES, rule()) for _ in range(5)))
    assert sorted(code for code, _ in done) == [201] + [409] * 4


async def test_two_servers_over_one_store_lose_nothing(rig: Rig) -> None:
    cache = ObjectCache()
    async with TestClient(
        TestServer(make_api_app(rig.store, cache, "secret"))
    ) as client:
        other = Rig(client, rig.store, cache)
        cache.update({}, 1)

        async def lag() -> None:
            """The other server sees everything later."""
            while True:
                await asyncio.sleep(0.02)
                cache.update(rig.cache.objects, rig.cache.version)

        lagging = asyncio.create_task(lag())
        await rig.ask("POST", RULES, rule())
        patches = [{"metadata": {"labels": {f"l{i}": "x"}}} for i in range(12)]
        done = await asyncio.gather(
            *(
                (rig, other)[i % 2].ask("PATCH", f"{RULES}/a", p, headers=MERGE)
                for i, p in enumerate(patches)
            )
        )
        lagging.cancel()
    lost = [body for code, body in done if code != 200]
    assert all(body["reason"] in {"Conflict", "NotFound"} for body in lost), lost
    labels = (await rig.ask("GET", f"{RULES}/a"))[1]["metadata"]["labels"]
    assert len(labels) == 12 - len(lost)


async def test_a_watch_resumes_without_a_gap(rig: Rig) -> None:
    _, listed = await rig.ask("GET", RULES)
    version = listed["metadata"]["resourceVersion"]
    await rig.ask("POST", RULES, rule("a"))
    await rig.ask("POST", RULES, rule("b"))
    await rig.ask("DELETE", f"{RULES}/a")
    stream = await rig.watch(f"resourceVersion={version}")
    seen = [await event(stream) for _ in range(3)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in seen] == [
        ("ADDED", "a"),
        ("ADDED", "b"),
        ("DELETED", "a"),
    ]
    versions = [int(e["object"]["metadata"]["resourceVersion"]) for e in seen]
    assert versions == sorted(versions)
    stream.close()
    resumed = await rig.watch(f"resourceVersion={versions[1]}")
    assert (await event(resumed))["type"] == "DELETED"
    resumed.close()


async def test_a_watch_with_selector_sees_objects_come_and_go(rig: Rig) -> None:
    await rig.ask("POST", RULES, rule())
    _, listed = await rig.ask("GET", RULES)
    stream = await rig.watch(
        f"resourceVersion={listed['metadata']['resourceVersion']}&labelSelector=on"
    )
    for value in ("yes", "still", None):
        await rig.ask(
            "PATCH",
            f"{RULES}/a",
            {"metadata": {"labels": {"on": value}}},
            headers=MERGE,
        )
    assert [(await event(stream))["type"] for _ in range(3)] == [
        "ADDED",
        "MODIFIED",
        "DELETED",
    ]
    stream.close()


async def test_a_watch_from_the_past_must_list_again(rig: Rig) -> None:
    stream = await rig.watch("resourceVersion=1")
    body = await stream.json()
    assert (stream.status, body["code"], body["reason"]) == (410, 410, "Expired")


async def test_a_watch_ends_in_time_with_a_bookmark(rig: Rig) -> None:
    await rig.ask("POST", RULES, rule())
    stream = await rig.watch(
        "timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true"
    )
    added, initial, last = [await event(stream) for _ in range(3)]
    assert [added["type"], initial["type"], last["type"]] == [
        "ADDED",
        "BOOKMARK",
        "BOOKMARK",
    ]
    assert initial["object"]["metadata"]["annotations"] == {
        "k8s.io/initial-events-end": "true"
    }
    assert last["object"]["metadata"]["resourceVersion"] == str(rig.cache.version)
    assert await stream.content.readline() == b""


async def test_a_failing_store_is_503_and_changes_nothing(rig: Rig) -> None:
    await rig.ask("POST", RULES, rule())
    rig.store.failing = True
    for method, path, body in (
        ("POST", RULES, rule("b")),
        ("PUT", f"{RULES}/a", rule("a", host="b")),
    ):
        code, answer = await rig.ask(method, path, body)
        assert (code, answer["reason"], answer["kind"]) == (
            503,
            "ServiceUnavailable",
            "Status",
        )
    rig.store.failing = False
    _, listed = await rig.ask("GET", RULES)
    assert [(i["metadata"]["name"], i["spec"]["host"]) for i in listed["items"]] == [
        ("a", "a")
    ]


async def test_an_unread_store_is_no_empty_one(tmp_path: Path) -> None:
    app = make_api_app(Store(tmp_path), ObjectCache(), "secret")
    async with TestClient(TestServer(app)) as client:
        answer = await client.get(RULES, headers={"Authorization": "Bearer secret"})
        assert answer.status == 503


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code"),
    [
        ("POST", RULES, "x" * (5 << 20), {}, 413),
        ("POST", RULES, "[" * 200_000, {}, 400),
        ("POST", RULES, "null", {}, 400),
        ("POST", RULES, b"\xff\xfe", {}, 400),
        ("POST", RULES, json.dumps(rule()), {"Content-Type": "text/plain"}, 415),
        ("POST", RULES, json.dumps({**rule(), "kind": "Sidecar"}), {}, 400),
        (
            "POST",
            RULES,
            json.dumps({**rule(), "metadata": {"name": "a", "namespace": "b"}}),
            {},
            400,
        ),
        ("POST", RULES, json.dumps({**rule(), "metadata": {}}), {}, 422),
        ("POST", RULES, json.dumps(rule("../a")), {}, 422),
        ("POST", RULES, json.dumps(rule(host="x" * 600_000)), {}, 413),
        (
            "POST",
            RULES,
            json.dumps({**rule(), "metadata": {"name": "a", "resourceVersion": "5"}}),
            {},
            400,
        ),
        ("PUT", f"{RULES}/a", json.dumps(rule()), {}, 404),
        ("PATCH", f"{RULES}/a?fieldManager=m", "a: &a [x]\nb: [*a, *a", APPLY, 400),
        ("PATCH", f"{RULES}/a", json.dumps(rule()), APPLY, 400),
        ("PATCH", f"{RULES}/a", "{}", MERGE, 404),
        ("GET", f"{RULES}?labelSelector=a+b", None, {}, 400),
        ("GET", f"{RULES}?watch=1&resourceVersion=x", None, {}, 400),
        ("GET", "/apis/networking.istio.io/v7/virtualservices", None, {}, 404),
        ("GET", "/apis/apps/v1/deployments", None, {}, 404),
        ("GET", "/nowhere", None, {}, 404),
        ("POST", "/version", "{}", {}, 405),
        ("POST", f"{RULES}?dryRun=Some", json.dumps(rule()), {}, 400),
        ("POST", f"{RULES}?fieldValidation=Maybe", json.dumps(rule()), {}, 400),
        ("GET", RULES, None, {"Authorization": "Bearer other"}, 401),
        ("GET", RULES, None, {"Authorization": ""}, 401),
    ],
)
async def test_what_is_wrong_is_answered_with_a_status(
    rig: Rig, method: str, path: str, body: Any, headers: Mapping[str, str], code: int
) -> None:
    got, answer = await rig.ask(method, path, body, headers=headers)
    assert (got, answer["kind"], answer["code"], answer["status"]) == (
        code,
        "Status",
        code,
        "Failure",
    ), answer
    assert answer["message"]
    assert not rig.cache.objects


async def test_a_dry_run_says_nothing_of_what_has_not_happened(rig: Rig) -> None:
    code, answer = await rig.ask("POST", f"{RULES}?dryRun=All", rule())
    assert (code, "status" in answer) == (201, False)

    _, current = await rig.ask("POST", RULES, rule())
    planned = rule("a", host="b")
    _, answer = await rig.ask("PUT", f"{RULES}/a?dryRun=All", planned)
    assert answer["metadata"]["generation"] == 2
    assert answer["status"] == current["status"]


async def test_preconditions_of_a_delete(rig: Rig) -> None:
    _, current = await rig.ask("POST", RULES, rule())
    for wrong in ({"uid": "other"}, {"resourceVersion": "1"}):
        assert (await rig.ask("DELETE", f"{RULES}/a", {"preconditions": wrong}))[
            0
        ] == 409
    right = {"preconditions": {"uid": current["metadata"]["uid"]}}
    code, answer = await rig.ask("DELETE", f"{RULES}/a", right)
    assert (code, answer["status"], answer["details"]["name"]) == (200, "Success", "a")


async def test_versions_survive_a_restart_of_the_store(
    rig: Rig, tmp_path: Path
) -> None:
    _, current = await rig.ask("POST", RULES, rule())
    await rig.ask("POST", RULES, rule("b"))
    cache = ObjectCache()
    store = Store(tmp_path / "store")
    following = asyncio.create_task(
        store.follow(lambda stored: cache.update(stored, store.index))
    )
    await cache.wait()
    following.cancel()
    assert {o.version for o in cache.objects.values()} == {
        o.version for o in rig.cache.objects.values()
    }
    assert cache.version >= rig.cache.version
    assert (
        str(cache.version_of("networking.istio.io/DestinationRule/default/a"))
        == current["metadata"]["resourceVersion"]
    )


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "dockermesh-control-plane:8080"}, 200),
        ({"Host": "evil.example:8080"}, 403),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
async def test_without_tokens_web_pages_are_kept_out(
    tmp_path: Path, headers: dict[str, str], code: int
) -> None:
    async with TestClient(
        TestServer(make_api_app(Store(tmp_path), ObjectCache(), None))
    ) as client:
        answer = await client.get("/version", headers=headers)
        assert answer.status == code
