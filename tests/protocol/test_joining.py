"""`dockermesh join` writes what brings a stock Envoy into the mesh, and keeps the secret in it to
itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane
from envoy_binary import envoy_binary

from dockermesh.client.mesh.api_client import ApiClient, Endpoint
from dockermesh.client.mesh.joining import Join, Joined, join
from dockermesh.client.mesh.mesh_client import ApiError
from dockermesh.client.mesh.mesh_trust import create_token, revoke, tokens
from dockermesh.model import Workload
from dockermesh.registrar.lease import HostLease
from dockermesh.registry.consul.joined import ConsulJoined
from dockermesh.xds import CLUSTER

pytestmark = [pytest.mark.consul, pytest.mark.binary]


def joined(mesh: Running, folder: Path) -> tuple[ApiClient, Joined]:
    """What the command does, with the API over TLS."""
    root = (mesh.settings.trust_dir / "root.pem").read_text()
    endpoint = Endpoint(f"https://{mesh.settings.api}", mesh.token, root)
    client = ApiClient(endpoint)
    made = create_token(
        client, service="legacy", namespace="default", account="", seconds=60
    )
    what = Join({8080: "http"}, folder, mesh.settings.xds, "127.0.0.1")
    result = join(endpoint, made["token"], what)
    with pytest.raises(ApiError, match="was used"):
        join(endpoint, made["token"], replace(what, folder=folder / "again"))
    return client, result


async def test_the_written_files_bring_an_envoy_into_the_mesh_until_it_is_revoked(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "join"
    async with Agent() as agent, control_plane(tmp_path / "mesh", agent) as mesh:
        client, result = await asyncio.to_thread(joined, mesh, folder)
        assert result.workload == "joined/legacy-1"
        assert (folder / "envoy.json").stat().st_mode & 0o777 == 0o600
        node = json.loads((folder / "envoy.json").read_text())["node"]
        assert (
            node["id"]
            == "sidecar~127.0.0.1~joined/legacy-1.default~default.svc.cluster.local"
        )
        own = json.loads((folder / "envoy.json").read_text())["dynamic_resources"][
            "ads_config"
        ]["grpc_services"][0]
        secret = own["initial_metadata"][0]["value"].removeprefix("Bearer ")
        others = [folder / name for name in ("trust.json", "root.pem", "capture.rules")]
        assert not any(
            secret in text
            for text in (*(f.read_text() for f in others), *result.commands)
        )
        rules = (folder / "capture.rules").read_text()
        assert "--dport 8080 " in rules
        assert "-d 240.240.0.0/16" in rules
        assert "-A PREROUTING -d 127.0.0.1 -p tcp -j ISTIO_INBOUND" in rules, (
            "what a Docker host forwards is not captured"
        )

        options = (
            "-c",
            str(folder / "envoy.json"),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "-l",
            "error",
        )
        envoy = await asyncio.create_subprocess_exec(envoy_binary(), *options)
        try:
            await eventually(lambda: "joined/legacy-1" in _synced(mesh), 30)
            assert (
                await asyncio.to_thread(revoke, client, "joined/legacy-1")
                == "joined/legacy-1"
            )
            await eventually(lambda: not mesh.plane.proxies(), 10)
            left = [item["state"] for item in await asyncio.to_thread(tokens, client)]
            assert left == ["revoked"]
        finally:
            with contextlib.suppress(ProcessLookupError):
                envoy.kill()
            await envoy.wait()


def _synced(mesh: Running) -> set[str]:
    """The proxies that accepted their clusters."""
    types = {
        p.proxy.key: {t.type_url for t in p.types if t.acked_version}
        for p in mesh.plane.proxies()
    }
    return {key for key, accepted in types.items() if CLUSTER in accepted}


async def test_no_registrar_buries_what_joined() -> None:
    """It has no host with a lease; a dead host's entries are cleaned up all the same."""
    async with Agent() as agent:
        legacy = Workload(
            id="",
            name="",
            service="legacy",
            address="10.0.0.9",
            service_account="legacy",
        )
        kept = await ConsulJoined(agent.settings).add(legacy, {8080: "http"})
        await agent.put("kv/dockermesh/workloads/dead/shop/a-1", {"name": "shop/a-1"})
        lease = HostLease(agent.client, "alive", renew=0.05, grace=0.0)
        burying = asyncio.create_task(lease.run(lambda: None))

        async def is_buried() -> bool:
            return (await agent.client.kv.get("dockermesh/workloads/dead/", keys=True))[
                1
            ] is None

        await eventually(is_buried, 20)
        burying.cancel()
        _, left = await agent.client.kv.get("dockermesh/workloads/joined/", keys=True)
        assert left == [f"dockermesh/workloads/joined/{kept.name}"]
        assert await agent.read("agent/services")
