"""A Consul that loses its data, or has damaged values, takes no policy out of force."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, settings_for, workload

from dockermesh.config.api.authorization_policy import Rule
from dockermesh.controlplane.control_plane import ControlPlane

pytestmark = pytest.mark.consul
POLICIES = "/apis/security.istio.io/v1/namespaces/default/authorizationpolicies"
ROUTES = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"
DENY = {
    "apiVersion": "security.istio.io/v1",
    "kind": "AuthorizationPolicy",
    "metadata": {"name": "deny"},
    "spec": {"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/a"]}}]}]},
}
ROUTE = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "VirtualService",
    "metadata": {"name": "web"},
    "spec": {"hosts": ["web"], "http": [{"route": [{"destination": {"host": "web"}}]}]},
}
DENY_KEY = "dockermesh/config/security.istio.io/AuthorizationPolicy/default/deny"


async def apply(mesh: Running, *documents: dict[str, Any]) -> None:
    for document in documents:
        path = POLICIES if document["kind"] == "AuthorizationPolicy" else ROUTES
        status, answer = await mesh.ask("POST", path, **document)
        assert status == 201, answer


def in_force(mesh: Running) -> set[str]:
    """The resources that proxies are served from."""
    config = mesh.plane._publisher.mesh.config
    found = [*config.authorization_policies, *config.virtual_services]
    return {item.name for item in found}


async def stored(agent: Agent, key: str = DENY_KEY) -> Any:
    text = await agent.client.kv.get(key)
    return text[1] and text[1]["Value"]


async def is_gone(agent: Agent, key: str) -> bool:
    return await stored(agent, key) is None


async def is_back(agent: Agent) -> bool:
    with suppress(Exception):
        return b"DENY" in (await stored(agent) or b"")
    return False


async def test_a_consul_that_starts_empty_gets_the_policies_back(
    tmp_path: Path,
) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, DENY, ROUTE)
        await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
        agent.kill()
        await eventually(lambda: bool(mesh.plane.config_problems()), 20)

        await agent.start()
        await eventually(lambda: is_back(agent), 30)
        assert in_force(mesh) == {"deny", "web"}
        await eventually(lambda: not mesh.plane.config_problems(), 20)

        # As if nothing had been: what is applied and deleted now counts.
        status, _ = await mesh.ask("DELETE", f"{POLICIES}/deny")
        assert status == 200
        await eventually(lambda: in_force(mesh) == {"web"}, 10)
        assert await stored(agent) is None


async def test_a_control_plane_that_starts_on_an_empty_consul_has_its_copy(
    tmp_path: Path,
) -> None:
    async with Agent() as agent:
        async with control_plane(tmp_path, agent) as mesh:
            await apply(mesh, DENY, ROUTE)
            await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
        agent.kill()
        await agent.start()
        async with control_plane(tmp_path, agent) as mesh:
            await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
            await eventually(lambda: is_back(agent), 10)


async def test_keys_deleted_as_a_whole_are_a_loss_and_one_alone_is_not(
    tmp_path: Path,
) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, DENY, ROUTE)
        await agent.client.kv.delete("dockermesh/config/", recurse=True)
        await eventually(lambda: is_back(agent), 10)
        # What is deleted before its return was read is a part of the loss, and comes back.
        await eventually(lambda: is_whole(mesh), 10)
        assert in_force(mesh) == {"deny", "web"}

        await agent.client.kv.delete(DENY_KEY)
        await eventually(lambda: in_force(mesh) == {"web"}, 10)


async def test_a_loss_is_seen_where_the_prefix_falls_back_to_an_index_of_before(
    tmp_path: Path,
) -> None:
    """Deleted with all else, an empty list has the index of when it was empty the last time."""
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, DENY, ROUTE)
        await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
        for _ in range(3):
            await agent.client.kv.delete("dockermesh/config/", recurse=True)
            await eventually(lambda: is_back(agent), 10)
            await agent.client.kv.delete("dockermesh/", recurse=True)
            await eventually(lambda: is_back(agent), 10)
            assert in_force(mesh) == {"deny", "web"}


async def test_an_old_snapshot_brings_nothing_back(tmp_path: Path) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, ROUTE)
        await snapshot(agent, "save", tmp_path / "before")
        await apply(mesh, DENY)
        await mesh.ask("DELETE", f"{ROUTES}/web")
        await eventually(lambda: in_force(mesh) == {"deny"}, 10)

        await snapshot(agent, "restore", tmp_path / "before")
        await eventually(lambda: is_back(agent), 20)
        assert in_force(mesh) == {"deny"}
        key = "dockermesh/config/networking.istio.io/VirtualService/default/web"
        await eventually(lambda: is_gone(agent, key), 10)


async def snapshot(agent: Agent, verb: str, file: Path) -> None:
    address = f"-http-addr=127.0.0.1:{agent.settings.port}"
    command = ("consul", "snapshot", verb, address, str(file))
    process = await asyncio.create_subprocess_exec(*command)
    assert await process.wait() == 0


@pytest.mark.parametrize("damage", ['{"spec": {"act', "", "[]", '{"spec": {}}'])
async def test_a_damaged_value_keeps_its_last_good_content(
    tmp_path: Path, damage: str
) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, DENY, ROUTE)
        await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
        await agent.client.kv.put(DENY_KEY, damage)
        await eventually(
            lambda: is_back(agent) if damage[-2:] != "}}" else is_told(mesh), 10
        )
        assert in_force(mesh) == {"deny", "web"}

        # The same again repairs it, and changes nothing else. What is being written back meanwhile
        # is at another version.
        await eventually(lambda: put(mesh, DENY), 10)
        await eventually(lambda: is_back(agent), 10)
        await eventually(lambda: not mesh.plane.config_problems(), 10)
        assert in_force(mesh) == {"deny", "web"}


def is_whole(mesh: Running) -> bool:
    return "dockermesh_config_degraded 0.0" in mesh.plane.metrics_text()


def is_told(mesh: Running) -> bool:
    text = mesh.plane.metrics_text()
    return (
        "deny is damaged" in "".join(mesh.plane.config_problems())
        and 'dockermesh_config_damaged{used="last good content"} 1.0' in text
        and "dockermesh_config_degraded 1.0" in text
    )


@pytest.mark.parametrize("repair", ["POST", "DELETE"])
async def test_a_policy_whose_content_nobody_knows_closes_until_it_is_replaced_or_deleted(
    tmp_path: Path, repair: str
) -> None:
    async with Agent() as agent:
        await agent.client.kv.put(DENY_KEY, "{torn")
        async with control_plane(tmp_path, agent) as mesh:
            await apply(mesh, ROUTE)
            await eventually(lambda: in_force(mesh) == {"deny", "web"}, 10)
            assert all_is_denied(mesh)
            [problem] = mesh.plane.config_problems()
            assert "is closed" in problem and "deny" in problem
            status, listed = await mesh.ask("GET", POLICIES)
            assert status == 200 and len(listed["items"]) == 1
            [condition] = [
                c
                for c in listed["items"][0]["status"]["conditions"]
                if c["type"] == "Accepted"
            ]
            assert condition["status"] == "False" and "damaged" in condition["message"]

            if repair == "DELETE":
                status, _ = await mesh.ask("DELETE", f"{POLICIES}/deny")
                assert status == 200 and await stored(agent) is None
            else:
                found = {**listed["items"][0], **DENY}
                status, answer = await mesh.ask("PUT", f"{POLICIES}/deny", **found)
                assert status == 200, answer
            await eventually(lambda: not mesh.plane.config_problems(), 10)
            kept = {"web"} if repair == "DELETE" else {"deny", "web"}
            await eventually(lambda: not all_is_denied(mesh), 10)
            assert in_force(mesh) == kept


def all_is_denied(mesh: Running) -> bool:
    """Whether a policy that is in force denies every request."""
    policies = mesh.plane._publisher.mesh.config.authorization_policies
    return any(p.spec.action == "DENY" and Rule() in p.spec.rules for p in policies)


async def test_a_policy_of_another_version_stays_as_tight_as_it_was(
    tmp_path: Path,
) -> None:
    """As an update finds it: stored by a version with other rules, and in its copy."""
    rules = [
        *DENY["spec"]["rules"],
        {"to": [{"operation": {"ofAnotherVersion": ["x"]}}]},
    ]
    document = {
        **DENY,
        "metadata": {"name": "deny", "namespace": "default"},
        "spec": {"action": "DENY", "rules": rules},
    }
    route = {**ROUTE, "spec": {"ofAnotherVersion": True}}
    key = "dockermesh/config/networking.istio.io/VirtualService/default/web"
    async with Agent() as agent:
        await agent.client.kv.put(DENY_KEY, json.dumps(document))
        await agent.client.kv.put(key, json.dumps(route))
        async with control_plane(tmp_path, agent) as mesh:
            await eventually(lambda: in_force(mesh) == {"deny"}, 10)
            [policy] = mesh.plane._publisher.mesh.config.authorization_policies
            assert len(policy.spec.rules) == 2 and policy.spec.rules[1] == Rule()
            told = mesh.plane.config_problems()
            assert any("deny" in t and "lets nothing through" in t for t in told)
            assert any("web" in t and "no effect" in t for t in told)
            text = mesh.plane.metrics_text()
            assert 'dockermesh_config_refused{instead="closed"} 1.0' in text
            assert 'dockermesh_config_refused{instead="nothing"} 1.0' in text

            await eventually(lambda: put(mesh, DENY), 10)
            await eventually(lambda: not all_is_denied(mesh), 10)
            assert not any("deny" in t for t in mesh.plane.config_problems())


async def test_many_and_large_ones_are_written_back_as_well(tmp_path: Path) -> None:
    """More than Consul takes in one transaction, by their number and by their size."""
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        store = mesh.plane._backend.config
        for number in range(130):
            named = {
                **ROUTE,
                "metadata": {"name": f"r{number}", "namespace": "default"},
            }
            size = 450_000 if number == 7 else 20_000 if number < 60 else 10
            noted = {**named["metadata"], "annotations": {"note": "x" * size}}
            key = f"networking.istio.io/VirtualService/default/r{number}"
            assert await store.put(key, {**named, "metadata": noted}, 0)
        await apply(mesh, DENY)
        await eventually(lambda: len(in_force(mesh)) == 131, 20)

        await agent.client.kv.delete("dockermesh/config/", recurse=True)
        await eventually(lambda: all_back(agent), 30)
        await eventually(lambda: not mesh.plane.config_problems(), 20)
        assert len(in_force(mesh)) == 131


async def all_back(agent: Agent) -> bool:
    _, keys = await agent.client.kv.get("dockermesh/config/", keys=True)
    return len(keys or ()) == 132  # with the marker


async def test_a_revoked_token_stays_revoked(tmp_path: Path) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await mesh.add(workload("shop/web-1"))
        await mesh.plane.tokens.revoke("shop/web-1")
        await eventually(lambda: revoked(mesh), 10)
        for _ in range(2):
            agent.kill()
            await agent.start()
            await mesh.add(workload("shop/web-1"))
            assert revoked(mesh)
        await eventually(lambda: denied(agent), 20)


async def denied(agent: Agent) -> bool:
    _, keys = await agent.client.kv.get("dockermesh/tokens/denied/", keys=True)
    return bool(keys)


async def test_who_joined_is_in_the_mesh_again(tmp_path: Path) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        token = (await mesh.plane.tokens.create({"service": "legacy"}))["token"]
        await eventually(lambda: can_join(mesh), 10)
        asked = {
            "token_sha256": "a" * 64,
            "address": "127.0.0.1",
            "ports": {"80": "http"},
        }
        joined = await mesh.plane.tokens.join(token, asked)
        await eventually(lambda: joined.name in mesh.plane.catalog().workloads, 10)
        agent.kill()
        await agent.start()
        await eventually(lambda: record_of(agent, joined.name), 40)
        await eventually(lambda: legacy(agent), 10)

        await mesh.plane.tokens.revoke(joined.name)
        await eventually(lambda: joined.name not in mesh.plane.catalog().workloads, 10)


def can_join(mesh: Running) -> bool:
    return any(item["kind"] == "join" for item in mesh.plane.tokens.listing())


async def record_of(agent: Agent, name: str) -> bool:
    return bool(await stored(agent, f"dockermesh/workloads/joined/{name}"))


async def legacy(agent: Agent) -> bool:
    return "legacy" in await agent.read("catalog/services")


def revoked(mesh: Running) -> bool:
    listing = mesh.plane.tokens.listing()
    return any(item["state"] == "revoked" for item in listing)


async def test_writes_wait_for_a_store_that_is_brought_back(tmp_path: Path) -> None:
    async with Agent() as agent, control_plane(tmp_path, agent) as mesh:
        await apply(mesh, DENY)
        agent.kill()
        await agent.start()
        changed = json.loads(json.dumps(DENY))
        changed["spec"]["rules"][0]["to"][0]["operation"]["paths"] = ["/b"]
        await eventually(lambda: put(mesh, changed), 30)
        await eventually(lambda: is_back(agent), 10)
        assert b"/b" in await stored(agent)
        await eventually(lambda: not mesh.plane.config_problems(), 10)
        assert b"/b" in await stored(agent)


async def put(mesh: Running, document: dict[str, Any]) -> bool:
    status, found = await mesh.ask("GET", f"{POLICIES}/deny")
    if status != 200:
        return False
    body = {**found, "spec": document["spec"]}
    status, _ = await mesh.ask("PUT", f"{POLICIES}/deny", **body)
    return status == 200


async def test_a_start_without_consul_serves_the_copies_and_goes_over_to_consul(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockermesh.registry.grace.GRACE_S", 1.0)
    web, gone, other = (workload(f"shop/{n}-1") for n in ("web", "gone", "other"))
    async with Agent(tmp_path / "consul") as agent:
        async with control_plane(tmp_path, agent) as mesh:
            await agent.register("web", Meta={"dockermesh-workload": web.name})
            await mesh.add(web, gone)
            await apply(mesh, DENY)
            await mesh.plane.tokens.revoke(gone.name)
            await eventually(lambda: in_force(mesh) == {"deny"}, 10)
            await eventually(lambda: revoked(mesh), 10)
            await eventually(
                lambda: "web.service.consul" in mesh.plane.catalog().services, 10
            )
            dump = mesh.plane.snapshot_of(web.name)
        agent.kill()

        async with control_plane(tmp_path, agent) as mesh:
            assert in_force(mesh) == {"deny"}
            assert (
                mesh.plane.snapshot_of(web.name).clusters.version
                == dump.clusters.version
            )
            async with mesh.stream(web.name) as stream:
                assert set(await stream.secrets("default", "ROOTCA")) == {
                    "default",
                    "ROOTCA",
                }
            async with mesh.stream(gone.name) as stream:
                code, _ = await stream.refusal("default")
                assert code is grpc.StatusCode.PERMISSION_DENIED, "revoked is revoked"
            assert "copy of" in mesh.plane.catalog().degraded
            assert any("copy" in problem for problem in mesh.plane.config_problems())
            assert any("copy" in warning for warning in mesh.plane.warnings())
            status, answer = await mesh.ask("POST", ROUTES, **ROUTE)
            assert status == 503, answer

            agent.launch()
            await eventually(lambda: not mesh.plane.catalog().degraded, 30)
            await eventually(lambda: not mesh.plane.config_problems(), 30)
            await eventually(lambda: not mesh.plane.warnings(), 30)
            await mesh.add(other)
            assert in_force(mesh) == {"deny"}


async def test_a_start_without_consul_and_without_a_copy_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dockermesh.registry.grace.GRACE_S", 0.1)
    agent = Agent(tmp_path / "consul")
    plane, stop = ControlPlane(settings_for(tmp_path, agent)), asyncio.Event()
    task = asyncio.create_task(plane.run(stop))
    try:
        await eventually(lambda: "CA" in "".join(plane.readiness()), 10)
        await asyncio.sleep(1)
        assert plane.readiness(), "no second CA, and no empty mesh"
    finally:
        stop.set()
        await task
