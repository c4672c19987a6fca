"""Two real Envoys speak mutual TLS with what the control plane gives them, while it is all replaced
under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, node_id, token_of, workload
from envoy_binary import envoy_binary
from ports import free_ports

from dockermesh.ca import Step
from dockermesh.xds import CLUSTER

pytestmark = [pytest.mark.binary, pytest.mark.consul]
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
PROTOCOLS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def sds(name: str) -> dict[str, Any]:
    return {"name": name, "sds_config": {"ads": {}, "resource_api_version": "V3"}}


def identity(account: str) -> dict[str, Any]:
    """What is shown and whom it is shown to: one account of the mesh."""
    name = {
        "san_type": "URI",
        "matcher": {"exact": f"spiffe://cluster.local/ns/default/sa/{account}"},
    }
    return {
        "tls_certificate_sds_secret_configs": [sds("default")],
        "combined_validation_context": {
            "default_validation_context": {"match_typed_subject_alt_names": [name]},
            "validation_context_sds_secret_config": sds("ROOTCA"),
        },
    }


def listener(
    port: int, route: dict[str, Any], socket: dict[str, Any] | None = None
) -> dict[str, Any]:
    manager = {
        "@type": HTTP,
        "stat_prefix": "http",
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
        "route_config": {
            "validate_clusters": False,
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
        },
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if socket is not None:
        chain["transport_socket"] = {"name": "tls", "typed_config": socket}
    return {"name": "in", "address": address(port), "filter_chains": [chain]}


def upstream(
    name: str,
    port: int,
    socket: dict[str, Any],
    protocol: dict[str, Any],
    **options: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        "connect_timeout": "60s",
        "transport_socket": {"name": "tls", "typed_config": socket},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": (
                {"@type": PROTOCOLS} | protocol
            )
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    } | options


def bootstrap(
    mesh: Running, name: str, listeners: list[Any], clusters: Path, admin: int
) -> dict[str, Any]:
    trust = {"path": str(mesh.settings.state_dir.parent / "trust.json")}
    verify = {
        "default_validation_context": {
            "match_typed_subject_alt_names": [
                {"san_type": "DNS", "matcher": {"exact": "control-plane.dockermesh"}}
            ]
        },
        "validation_context_sds_secret_config": {
            "name": "mesh-root",
            "sds_config": {"resource_api_version": "V3", "path_config_source": trust},
        },
    }
    xds = upstream(
        "xds",
        int(mesh.settings.xds.rpartition(":")[2]),
        {
            "@type": f"{TLS}UpstreamTlsContext",
            "sni": "control-plane.dockermesh",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "combined_validation_context": verify,
            },
        },
        {"explicit_http_config": {"http2_protocol_options": {}}},
    )
    bearer = [{"key": "authorization", "value": f"Bearer {token_of(name)}"}]
    pause = {"retry_back_off": {"base_interval": "0.2s", "max_interval": "2s"}}
    grpc = {
        "envoy_grpc": {"cluster_name": "xds", "retry_policy": pause},
        "initial_metadata": bearer,
    }
    return {
        "node": {"id": node_id(name), "cluster": "test"},
        "admin": {"address": address(admin)},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [grpc],
            },
            # Envoy crashes on a static cluster whose secrets come over ADS.
            "cds_config": {
                "resource_api_version": "V3",
                "path_config_source": {"path": str(clusters)},
            },
        },
        "static_resources": {"listeners": listeners, "clusters": [xds]},
    }


@dataclass(slots=True)
class Load:
    """Requests without a pause, each over a connection of its own between the two Envoys."""

    url: str
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    async def run(self) -> None:
        async with aiohttp.ClientSession() as http:
            while True:
                async with http.get(self.url) as answer:
                    text = await answer.text()
                self.answered += 1
                if answer.status != 200:
                    self.failures.append(f"{answer.status} {text}")
                await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def envoys(mesh: Running, folder: Path) -> AsyncIterator[str]:
    """A client's and a server's proxy; the URL that goes through both."""
    entry, inner, *admins = free_ports(4)
    trust = json.loads(
        (Path(__file__).parents[2] / "compose/images/pod/trust.json").read_text()
    )
    text = json.dumps(trust).replace("@TRUST@", str(mesh.settings.trust_dir))
    (mesh.settings.state_dir.parent / "trust.json").write_text(text)
    await mesh.add(workload("shop/client-1"), workload("shop/server-1"))
    server = {
        "@type": f"{TLS}DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": identity("client"),
    }
    served = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "served"}},
    }
    client = {
        "@type": f"{TLS}UpstreamTlsContext",
        "common_tls_context": identity("server"),
    }
    # A handshake for every request, and none that only resumes an earlier one.
    client["max_session_keys"] = 0
    plain = {"explicit_http_config": {"http_protocol_options": {}}}
    once = plain | {"common_http_protocol_options": {"max_requests_per_connection": 1}}
    files = [folder / "none.json", folder / "clusters.json"]
    cluster = {"@type": CLUSTER} | upstream("server", inner, client, once)
    for clusters, file in zip(([], [cluster]), files, strict=True):
        file.write_text(json.dumps({"version_info": "1", "resources": clusters}))
    configs = {
        "server": bootstrap(
            mesh,
            "shop/server-1",
            [listener(inner, served, server)],
            files[0],
            admins[0],
        ),
        "client": bootstrap(
            mesh,
            "shop/client-1",
            [
                listener(
                    entry, {"match": {"prefix": "/"}, "route": {"cluster": "server"}}
                )
            ],
            files[1],
            admins[1],
        ),
    }
    async with contextlib.AsyncExitStack() as stack:
        for name, config in configs.items():
            file = folder / f"{name}.json"
            file.write_text(json.dumps(config))
            process = await asyncio.create_subprocess_exec(
                envoy_binary(),
                "-c",
                str(file),
                "--use-dynamic-base-id",
                "--concurrency",
                "1",
                "-l",
                "error",
            )
            stack.push_async_callback(process.wait)
            stack.callback(_kill, process)
        url = f"http://127.0.0.1:{entry}/"
        await eventually(lambda: answers(url), 30)
        yield url


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def answers(url: str) -> bool:
    with contextlib.suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as http, http.get(url) as answer:
            return answer.status == 200
    return False


@contextlib.asynccontextmanager
async def under_load(url: str) -> AsyncIterator[Load]:
    load = Load(url)
    task = asyncio.create_task(load.run())
    yield load
    before = load.answered
    await eventually(lambda: task.done() or load.answered > before + 3, 20)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not load.failures, (
        f"{len(load.failures)} of {load.answered}: {load.failures[:3]}"
    )


@pytest.fixture
def lifetime(monkeypatch: pytest.MonkeyPatch) -> datetime.timedelta:
    """Leaves that are to be replaced every few seconds, and on a slow machine do not expire
    meanwhile.
    """
    monkeypatch.setattr("dockermesh.ca.certificates.RENEW_AT", 0.05)
    return datetime.timedelta(seconds=90)


async def test_leaves_and_roots_are_replaced_without_a_failed_handshake(
    tmp_path: Path, lifetime: datetime.timedelta
) -> None:
    async with (
        Agent() as agent,
        control_plane(tmp_path, agent, leaf_lifetime=lifetime) as mesh,
    ):
        trust = mesh.plane.trust
        async with envoys(mesh, tmp_path) as url, under_load(url) as load:
            assert trust.secrets is not None
            issued = trust.secrets.issued
            await eventually(lambda: trust.secrets.issued >= issued + 2, 30)
            roots = {trust.authority.roots_pem}
            for step in Step:
                handled = load.answered
                await eventually(lambda step=step: _taken(mesh, step), 30)
                roots.add(trust.authority.roots_pem)
                await eventually(
                    lambda handled=handled: load.answered > handled + 20, 30
                )
            assert trust.authority.material.phase == "stable"
            assert len(roots) == 4
            await eventually(lambda: load.answered > 100, 30)


async def _taken(mesh: Running, step: Step) -> bool:
    return not await mesh.plane.trust.rotate(step)


async def test_traffic_goes_on_while_the_control_plane_is_away_and_certificates_are_renewed_when_it_is_back(
    tmp_path: Path, lifetime: datetime.timedelta
) -> None:
    async with Agent() as agent, contextlib.AsyncExitStack() as stack:
        first = contextlib.AsyncExitStack()
        mesh = await first.enter_async_context(
            control_plane(tmp_path, agent, leaf_lifetime=lifetime)
        )
        url = await stack.enter_async_context(envoys(mesh, tmp_path))
        # They come back under another root than the one that they started with.
        for step in Step:
            await mesh.plane.trust.rotate(step, force=True)
        root = mesh.plane.trust.authority.roots_pem
        await eventually(lambda: _signed_alike(mesh), 30)
        await eventually(lambda: answers(url), 30)
        async with under_load(url):
            secrets = mesh.plane.trust.secrets
            assert secrets is not None
            overdue = max(leaf.renew_at for leaf in secrets.leaves().values())
            await first.aclose()
            await eventually(lambda: datetime.datetime.now(datetime.UTC) > overdue, 20)
            same = {
                "xds": mesh.settings.xds,
                "api": mesh.settings.api,
                "debug": mesh.settings.debug,
            }
            again = await stack.enter_async_context(
                control_plane(tmp_path, agent, leaf_lifetime=lifetime, **same)
            )
            await eventually(lambda: len(again.plane.trust.secrets.leaves()) == 2, 60)
            assert again.plane.trust.authority.roots_pem == root


def _signed_alike(mesh: Running) -> bool:
    """Whether all proxies accepted certificates of the present signer."""
    secrets, signer = (
        mesh.plane.trust.secrets,
        mesh.plane.trust.authority.material.signer.id,
    )
    assert secrets is not None
    return {leaf.signer for leaf in secrets.leaves().values()} == {
        signer
    } and mesh.plane.sync().is_complete
