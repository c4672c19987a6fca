"""Through a whole control plane: an object's status says what became of it, and reading it changes nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, workload

from dockermesh.app.api_client import ApiClient, Endpoint, path_of
from dockermesh.app.live_mesh import live_resources
from dockermesh.kubeapi.served import named

pytestmark = pytest.mark.consul
PROXY = workload("shop/web-1")


def rule(name: str, host: str) -> dict[str, Any]:
    spec = {"hosts": [host], "http": [{"route": [{"destination": {"host": "reviews"}}]}]}
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
    return await asyncio.to_thread(ApiClient(endpoint(mesh)).find, path_of(served, "default", name))


async def conditions(mesh: Running, name: str) -> dict[str, dict[str, Any]]:
    found = await find(mesh, name)
    return {c["type"]: c for c in found["status"]["conditions"]}


async def test_the_younger_of_two_rules_for_a_host_says_whose_it_is(tmp_path: Path) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent, api_auth="none") as mesh:
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
        assert (await conditions(mesh, "a"))["Programmed"]["message"].startswith("0/0 proxies")

        await mesh.add(PROXY)
        async with mesh.stream(PROXY.name) as stream:
            await stream.secrets("default")
            assert "/1 proxies" in (await conditions(mesh, "a"))["Programmed"]["message"]

        before = [item["metadata"]["resourceVersion"] for item in (await find(mesh))["items"]]
        await conditions(mesh, "a")
        assert [item["metadata"]["resourceVersion"] for item in (await find(mesh))["items"]] == before

        stored = await asyncio.to_thread(live_resources, {"DOCKERMESH_API": endpoint(mesh).url})
        assert [name for name in ("a", "b") if any(f'"name": "{name}"' in text for _, text in stored)] == ["a", "b"]
