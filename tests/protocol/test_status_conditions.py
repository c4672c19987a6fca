"""Through a whole control plane: an object's status says what became of it, and reading it changes
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, node_id, workload
from patience import SLACK

from dockermesh.client.mesh.api_client import ApiClient, Endpoint, path_of
from dockermesh.client.mesh.live_mesh import live_resources
from dockermesh.kubeapi.served import named
from dockermesh.model import WorkloadKind
from dockermesh.xds import CLUSTER, LISTENER

pytestmark = pytest.mark.consul
PROXY = workload("shop/web-1")


def rule(name: str, host: str) -> dict[str, Any]:
    spec = {
        "hosts": [host],
        "http": [{"route": [{"destination": {"host": "reviews"}}]}],
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def endpoint(mesh: Running) -> Endpoint:
    return Endpoint(f"http://{mesh.settings.api}")


async def find(mesh: Running, name: str = "") -> Any:
    served = named("virtualservice")
    assert served is not None
    return await asyncio.to_thread(
        ApiClient(endpoint(mesh)).find, path_of(served, "default", name)
    )


async def conditions(mesh: Running, name: str) -> dict[str, dict[str, Any]]:
    found = await find(mesh, name)
    return {c["type"]: c for c in found["status"]["conditions"]}


async def test_the_younger_of_two_rules_for_a_host_says_whose_it_is(
    tmp_path: Path,
) -> None:
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, api_auth="none") as mesh,
    ):
        served = named("virtualservice")
        assert served is not None
        client = ApiClient(endpoint(mesh))
        for name in ("a", "b"):
            await asyncio.to_thread(client.apply, served, rule(name, "reviews"))

        async def is_told() -> bool:
            return (await conditions(mesh, "b"))["Programmed"]["status"] == "True"

        await eventually(is_told, 10)
        accepted = (await conditions(mesh, "b"))["Accepted"]
        assert (accepted["status"], accepted["reason"]) == ("False", "Conflicted")
        assert "VirtualService default/a" in accepted["message"]
        assert (await conditions(mesh, "a"))["Accepted"]["status"] == "True"
        assert (await conditions(mesh, "a"))["Programmed"]["message"].startswith(
            "0/0 proxies"
        )

        await mesh.add(PROXY)
        async with mesh.stream(PROXY.name) as stream:
            await stream.secrets("default")
            assert (
                "/1 proxies" in (await conditions(mesh, "a"))["Programmed"]["message"]
            )

        before = [
            item["metadata"]["resourceVersion"] for item in (await find(mesh))["items"]
        ]
        await conditions(mesh, "a")
        assert [
            item["metadata"]["resourceVersion"] for item in (await find(mesh))["items"]
        ] == before

        stored, with_secrets = await asyncio.to_thread(
            live_resources, {"DOCKERMESH_API": endpoint(mesh).url}
        )
        assert [
            name
            for name in ("a", "b")
            if any(f'"name": "{name}"' in text for _, text in stored)
        ] == ["a", "b"]
        # Without a token nobody is shown any.
        assert not with_secrets


class Watch:
    """The events of a collection, as they come."""

    def __init__(self, lines: aiohttp.StreamReader) -> None:
        self._lines = lines

    async def until_programmed(self, wanted: str) -> tuple[list[str], str]:
        """The types of the events until Programmed has this status, and the version of the object
        then.
        """
        types = []
        async with asyncio.timeout(20 * SLACK):
            while True:
                event = json.loads(await self._lines.readline())
                types.append(event["type"])
                states = {
                    c["type"]: c["status"]
                    for c in event["object"]["status"]["conditions"]
                }
                if states["Programmed"] == wanted:
                    return types, event["object"]["metadata"]["resourceVersion"]


@contextlib.asynccontextmanager
async def watched(mesh: Running, version: str) -> AsyncIterator[Watch]:
    served = named("virtualservice")
    assert served is not None
    url = f"{endpoint(mesh).url}{path_of(served, 'default', '')}?watch=true&resourceVersion={version}"
    async with aiohttp.ClientSession() as http, http.get(url) as answer:
        yield Watch(answer.content)


async def test_a_watch_tells_when_proxies_fell_behind_and_when_they_have_caught_up(
    tmp_path: Path,
) -> None:
    """Nothing is written meanwhile, so the object's version stays. `kubectl wait
    --for=condition=Programmed`.
    """
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, api_auth="none") as mesh,
    ):
        served = named("virtualservice")
        assert served is not None
        await asyncio.to_thread(
            ApiClient(endpoint(mesh)).apply, served, rule("a", "reviews")
        )
        await mesh.add(PROXY)
        version = (await find(mesh))["metadata"]["resourceVersion"]
        own = (await find(mesh, "a"))["metadata"]["resourceVersion"]
        async with watched(mesh, version) as watch, mesh.stream(PROXY.name) as stream:
            await stream.ask("*", type_url=CLUSTER)
            types, at = await watch.until_programmed("False")
            assert (set(types), at) == ({"MODIFIED"}, own)
            await stream.answer()
            types, at = await watch.until_programmed("True")
            assert (set(types), at) == ({"MODIFIED"}, own)


async def test_what_changed_between_the_list_and_the_watch_is_told_all_the_same(
    tmp_path: Path,
) -> None:
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, api_auth="none") as mesh,
    ):
        served = named("virtualservice")
        assert served is not None
        await asyncio.to_thread(
            ApiClient(endpoint(mesh)).apply, served, rule("a", "reviews")
        )
        listed = await find(mesh)

        async def is_programmed() -> bool:
            return (await conditions(mesh, "a"))["Programmed"]["status"] == "True"

        await eventually(is_programmed, 10)
        async with watched(mesh, listed["metadata"]["resourceVersion"]) as watch:
            assert (await watch.until_programmed("True"))[0] == ["MODIFIED"]


async def test_settings_come_from_the_folder_of_resources(tmp_path: Path) -> None:
    """A MeshConfig needs no name there, as in Istio's ConfigMap; what it sets in vain is told.

    A nameless rule costs itself.
    """
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "mesh.yaml").write_text(
        "kind: MeshConfig\nconnectTimeout: 3s\nenablePrometheusMerge: true\n"
    )
    nameless = {**rule("a", "reviews"), "metadata": {"generateName": "a-"}}
    (folder / "a-nameless.yaml").write_text(json.dumps(nameless))
    (folder / "rule.yaml").write_text(json.dumps(rule("a", "reviews")))
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, api_auth="none", config=folder) as mesh,
    ):
        served = named("meshconfig")
        assert served is not None
        client = ApiClient(endpoint(mesh))

        async def is_told() -> bool:
            found = await asyncio.to_thread(
                client.find, path_of(served, "istio-system", "default")
            )
            if found is None:
                return False
            assert found["spec"] == {
                "connectTimeout": "3s",
                "enablePrometheusMerge": True,
            }
            accepted = {c["type"]: c for c in found["status"]["conditions"]}["Accepted"]
            return bool(
                accepted["message"] == "spec.enablePrometheusMerge: has no effect yet"
            )

        async def are_rules() -> bool:
            items = (await find(mesh))["items"]
            return [item["metadata"]["name"] for item in items] == ["a"]

        await eventually(is_told, 10)
        # A folder is read resource by resource.
        await eventually(are_rules, 10)


EDGE = {"istio": "ingressgateway"}
GATEWAY = workload(
    "shop/gateway-1",
    kind=WorkloadKind.GATEWAY,
    namespace="istio-system",
    labels=EDGE,
)


def gateway(name: str, port: int, host: str = "*") -> dict[str, Any]:
    server = {"port": {"number": port, "name": "http", "protocol": "HTTP"}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"selector": EDGE, "servers": [server | {"hosts": [host]}]},
    }


async def test_a_refusal_is_held_against_the_resource_that_caused_it_while_it_stands(
    tmp_path: Path,
) -> None:
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, api_auth="none") as mesh,
    ):
        vs, gw = named("virtualservice"), named("gateway")
        assert vs is not None and gw is not None
        client = ApiClient(endpoint(mesh))

        async def apply(document: dict[str, Any]) -> None:
            served = vs if document["kind"] == "VirtualService" else gw
            await asyncio.to_thread(client.apply, served, document)

        async def programmed(served: Any, name: str) -> dict[str, Any]:
            path = path_of(served, "default", name)
            found = await asyncio.to_thread(client.find, path)
            return {c["type"]: c for c in found["status"]["conditions"]}["Programmed"]

        await apply(rule("a", "reviews"))
        await apply(gateway("good", 80))
        await mesh.add(GATEWAY)
        node = node_id(GATEWAY.name, "istio-system")
        async with mesh.stream(GATEWAY.name, node=node) as stream:
            await stream.ask("*", type_url=LISTENER)
            await stream.answer()

            async def is_programmed() -> bool:
                return (await programmed(gw, "good"))["status"] == "True"

            await eventually(is_programmed, 10)

            words = "Error adding/updating listener(s) 0.0.0.0_81: cannot bind"
            await apply(gateway("bad", 81))
            await stream.answer(refusal=words)

            async def is_refused() -> bool:
                found = await programmed(gw, "bad")
                return found["reason"] == "Refused" and found["message"].endswith(
                    f"; refused by shop/gateway-1: {words}"
                )

            await eventually(is_refused, 10)
            for served, name in ((gw, "good"), (vs, "a")):
                other = await programmed(served, name)
                assert other["status"] == "True", other
                assert "1 refused what came of another resource" in other["message"]

            await apply(gateway("bad", 82))
            await stream.answer()

            async def is_taken() -> bool:
                return (await programmed(gw, "bad"))["status"] == "True"

            await eventually(is_taken, 10)
