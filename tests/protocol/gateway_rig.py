"""A control plane over a Consul of its own, with the real Envoy of a gateway, and what it takes to
talk to both.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from bridge_rig import Agent, eventually
from control_plane_rig import Running, control_plane, token_of, workload
from envoy_binary import envoy_binary
from policy_rig import Answer, ask, serve
from ports import free_ports

from dockermesh.ca import Authority
from dockermesh.client.compose.mesh_files import pod_file
from dockermesh.client.mesh.api_client import ApiClient, Endpoint
from dockermesh.config.documents import read_text
from dockermesh.http.credentials import load_leaf
from dockermesh.kubeapi.served import named
from dockermesh.model import Identity, Workload, WorkloadKind
from dockermesh.model.canonical import told_of_itself
from dockermesh.xds import LISTENER

EDGE = {"istio": "ingressgateway", "version": "v7"}
GATEWAY = workload(
    "shop/gateway-1", kind=WorkloadKind.GATEWAY, namespace="istio-system", labels=EDGE
)
ROUTES = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: default}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: %d, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop, namespace: default}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: shop.example.com, port: {number: 80}}}]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shop, namespace: default}
spec:
  hosts: [shop.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: %d}]
  endpoints: [{address: 127.0.0.1}]
"""
TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec: {tracing: [%s]}
"""
ALL = "{randomSamplingPercentage: 100, customTags: {who: {header: {name: x-who}}}}"


class World:
    """A control plane with a gateway's Envoy, and what it takes to talk to both."""

    def __init__(self, mesh: Running, edge: int) -> None:
        self.mesh = mesh
        self.edge = edge

    async def apply(self, text: str) -> None:
        """Store resources, and wait until the gateway has taken what follows."""
        client = ApiClient(Endpoint(f"http://{self.mesh.settings.api}"))
        for resource in read_text(text).resources:
            served = named(resource.kind)
            assert served is not None
            await asyncio.to_thread(client.apply, served, resource.document)
        await self.mesh.plane.settled()
        await eventually(self._is_synced, 20)

    def _is_synced(self) -> bool:
        (proxy,) = self.mesh.plane.proxies()
        types = {t.type_url: t for t in proxy.types}
        assert not any(t.error for t in types.values()), proxy
        found = types.get(LISTENER)
        return found is not None and found.sent_version == found.acked_version != ""

    async def ask(self, path: str, *headers: tuple[str, str]) -> Answer:
        return await asyncio.to_thread(
            partial(ask, self.edge, path, headers, host="shop.example.com")
        )

    async def traces(self, **query: str) -> dict[str, Any]:
        url = f"http://{self.mesh.settings.debug}/debug/traces"
        headers = {"Authorization": f"Bearer {self.mesh.token}"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.get(url, params=query) as answer,
        ):
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def trace(self, path: str, *headers: tuple[str, str]) -> list[dict[str, Any]]:
        """The spans of one request: nobody else asks for this path."""
        found: list[list[dict[str, Any]]] = []

        async def is_there() -> bool:
            listed = (await self.traces(last="1000"))["traces"]
            found[:] = [t for t in listed if _path(t[0]) == path]
            return bool(found)

        # Once more at most: what comes just as a listener is replaced may be taken by the old one.
        for _ in range(2):
            answer = await self.ask(path, *headers)
            assert answer.status == 200, answer
            with contextlib.suppress(TimeoutError):
                await eventually(is_there, 3)
                return found[0]
        raise TimeoutError(path)

    async def is_traced(self) -> bool:
        """Whether the app is told of a trace."""
        return (await self.ask("/x")).header("x-b3-traceid") is not None

    def member(self, account: str = "other") -> ssl.SSLContext:
        """How a proxy of the mesh connects."""
        leaf = self.authority.issue_workload(
            Identity("cluster.local", "default", account)
        )
        context = self.outsider()
        load_leaf(context, leaf)
        return context

    @property
    def authority(self) -> Authority:
        return self.mesh.plane.trust.authority

    def outsider(self) -> ssl.SSLContext:
        """How an app would, that knows the mesh's root."""
        roots = self.authority.roots_pem.decode()
        return ssl.create_default_context(cadata=roots)

    async def post(self, spans: Any, tls: ssl.SSLContext | None) -> int:
        """The status with which spans are taken; 0 where there is no connection."""
        port = self.mesh.settings.spans_port
        url = f"{'https' if tls else 'http'}://localhost:{port}/api/v2/spans"
        body = spans if isinstance(spans, bytes) else json.dumps(spans).encode()
        connector = aiohttp.TCPConnector(ssl=tls or True)
        try:
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(url, data=body) as answer,
            ):
                await answer.read()
                return answer.status
        except aiohttp.ClientError:
            return 0


def _path(span: dict[str, Any]) -> str:
    return str(span["tags"]["http.url"]).partition("example.com")[2]


def bootstrap(folder: Path, mesh: Running, own: Workload = GATEWAY) -> Path:
    """What the pod writes, without the listeners at ports that are everybody's here."""
    values = {
        "NODE_ID": f"router~127.0.0.1~{own.name}.{own.namespace}~x",
        "SERVICE": own.service,
        "WORKLOAD": own.name,
        "NAMESPACE": own.namespace,
        "CONTROL_PLANE_HOST": "127.0.0.1",
        "CONTROL_PLANE_PORT": mesh.settings.xds.rpartition(":")[2],
        "RUN": str(folder),
        "TRUST": str(mesh.settings.trust_dir),
        "TOKEN": token_of(own.name),
    }
    made = json.loads(pod_file("bootstrap.json", values))
    made["static_resources"]["listeners"] = []
    (folder / "trust.json").write_bytes(pod_file("trust.json", values))
    (folder / "envoy.json").write_text(json.dumps(made))
    return folder / "envoy.json"


@contextlib.asynccontextmanager
async def world(folder: Path, config: str = "") -> AsyncIterator[World]:
    edge, spans = free_ports(2)
    made = folder / "config"
    made.mkdir()
    (made / "all.yaml").write_text(ROUTES % (edge, serve()) + config)
    async with (
        Agent() as agent,
        control_plane(
            folder,
            agent,
            api_auth="none",
            config=made,
            spans=f"127.0.0.1:{spans}",
        ) as mesh,
    ):
        await mesh.add(GATEWAY)
        file = bootstrap(folder, mesh)
        options = ("-c", str(file), "--use-dynamic-base-id", "--concurrency", "1")
        envoy = await asyncio.create_subprocess_exec(
            envoy_binary(),
            *options,
            *("-l", "error"),
            env=told_of_itself(GATEWAY.name, GATEWAY.namespace, EDGE),
        )
        found = World(mesh, edge)
        try:

            async def answers() -> bool:
                with contextlib.suppress(OSError):
                    return (await found.ask("/")).status == 200
                return False

            await eventually(answers, 60)
            yield found
        finally:
            with contextlib.suppress(ProcessLookupError):
                envoy.kill()
            await envoy.wait()
