"""Changes of config reach proxies without a lost request, and many in a row as few pushes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import Agent, eventually, free_ports
from control_plane_rig import control_plane, workload
from envoy.config.cluster.v3 import cluster_pb2
from envoy_binary import envoy_binary
from patience import SLACK

from dockermesh.config.documents import read_document, read_text
from dockermesh.model import Catalog, Endpoint, Port, Protocol, Service, WorkloadKind
from dockermesh.translate.mesh.settings import istio_config
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds import CLUSTER, AdsServer, Nack

ADS: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}


def bootstrap(xds: int) -> dict[str, Any]:
    address = {"socket_address": {"address": "127.0.0.1", "port_value": xds}}
    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {
        "@type": f"type.googleapis.com/{kind}",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
    cluster = {
        "name": "xds",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {kind: http2},
        "load_assignment": {"cluster_name": "xds", "endpoints": endpoints},
    }
    return {
        "node": {"id": "router~127.0.0.1~edge.default~default", "cluster": "edge"},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            },
            "cds_config": ADS,
            "lds_config": ADS,
        },
        "static_resources": {"clusters": [cluster]},
    }


@contextlib.asynccontextmanager
async def envoy(xds: int, folder: Path) -> AsyncIterator[None]:
    """A real Envoy that takes its configuration from a port on loopback."""
    file = folder / "envoy.json"
    file.write_text(json.dumps(bootstrap(xds)))
    command = [
        envoy_binary(),
        "-c",
        str(file),
        "--use-dynamic-base-id",
        "--concurrency",
        "1",
        "-l",
        "off",
    ]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


async def answers(version: str) -> asyncio.Server:
    """An app on loopback that says which version it is."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-length: {len(version)}\r\n\r\n{version}".encode()
            )
            await writer.drain()

    async def quietly(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(quietly, "127.0.0.1", 0)


def state(
    port: int, apps: dict[str, int], version: str, before: MeshState | None
) -> MeshState:
    """A mesh in which the gateway's one route leads to one subset, and there is no other subset."""
    endpoints = tuple(
        Endpoint("127.0.0.1", app, labels={"version": name}, service_port=9080)
        for name, app in apps.items()
    )
    reviews = Service(
        "reviews", "reviews.service.consul", (Port(9080, Protocol.HTTP),), endpoints
    )
    reading = read_text(f"""
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge}}
spec: {{selector: {{app: edge}}, servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ["*"]}}]}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews}}
spec: {{hosts: ["*"], gateways: [edge], http: [{{route: [{{destination: {{host: reviews, subset: {version}}}}}]}}]}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: reviews}}
spec: {{host: reviews, subsets: [{{name: {version}, labels: {{version: {version}}}}}]}}
""")
    catalog = Catalog({reviews.hostname: reviews}, {})
    return build_mesh(catalog, config=istio_config(reading.resources), previous=before)


async def ask(port: int) -> str:
    """The answer to one request on a connection of its own."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "refused"
    try:
        writer.write(
            b"GET / HTTP/1.1\r\nhost: any.example\r\nconnection: close\r\n\r\n"
        )
        raw = (await reader.read()).decode()
        return (
            raw.rpartition("\r\n")[2]
            if raw.startswith("HTTP/1.1 200")
            else raw.partition("\r\n\r\n")[0]
        )
    finally:
        writer.close()


@pytest.mark.binary
async def test_a_route_that_moves_to_a_new_subset_while_the_old_one_goes_loses_no_request(
    tmp_path: Path,
) -> None:
    """F6: what a route needs is there before the route, and what it needed goes after it."""
    xds, port = free_ports(2)
    one, two = await answers("v1"), await answers("v2")
    apps = {
        "v1": one.sockets[0].getsockname()[1],
        "v2": two.sockets[0].getsockname()[1],
    }
    translator, proxy = (
        Translator(),
        Proxy("edge", WorkloadKind.GATEWAY, labels={"app": "edge"}),
    )
    server = AdsServer(authorize=_anybody)
    server.add_port(f"127.0.0.1:{xds}")

    def move_to(version: str) -> None:
        translator.update(state(port, apps, version, translator.mesh))
        server.publish(lambda _: translator.snapshot(proxy))

    move_to("v1")
    await server.start()
    async with envoy(xds, tmp_path):
        await eventually(lambda: _is(port, "v1"), 30)
        seen: Counter[str] = Counter()
        is_over = asyncio.Event()

        async def client() -> None:
            while not is_over.is_set():
                seen[await ask(port)] += 1

        load = [asyncio.create_task(client()) for _ in range(3)]
        for version in ("v2", "v1", "v2", "v1", "v2"):
            move_to(version)
            await eventually(lambda version=version: _is(port, version), 20)  # type: ignore[misc]
            enough = seen.total() + 30
            await eventually(lambda enough=enough: seen.total() >= enough, 20)  # type: ignore[misc]
        is_over.set()
        await asyncio.gather(*load)
        assert set(seen) == {"v1", "v2"}, seen
    await server.stop(1)
    one.close()
    two.close()


@pytest.mark.binary
async def test_a_patch_that_envoy_refuses_does_not_keep_a_new_proxy_from_serving(
    tmp_path: Path,
) -> None:
    """What nothing but Envoy can tell: that a script does not compile."""
    lua = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}
    broken = lua | {"default_source_code": {"inline_string": "this is no Lua"}}
    value = {"name": "envoy.filters.http.lua", "typed_config": broken}
    patch = {
        "applyTo": "HTTP_FILTER",
        "patch": {"operation": "INSERT_FIRST", "value": value},
    }
    document = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "broken"},
        "spec": {"configPatches": [patch]},
    }
    xds, port = free_ports(2)
    app = await answers("v1")
    translator, proxy = (
        Translator(),
        Proxy("edge", WorkloadKind.GATEWAY, labels={"app": "edge"}),
    )
    mesh = state(port, {"v1": app.sockets[0].getsockname()[1]}, "v1", None)
    filters = istio_config(read_document(document).resources).envoy_filters
    translator.update(replace(mesh, config=replace(mesh.config, envoy_filters=filters)))

    def refused(_proxy: object, type_url: str, nack: Nack) -> None:
        if translator.distrust(proxy, type_url, nack.detail):
            asyncio.get_running_loop().call_soon(
                server.publish, lambda _: translator.snapshot(proxy)
            )

    server = AdsServer(authorize=_anybody, on_nack=refused)
    server.add_port(f"127.0.0.1:{xds}")
    server.publish(lambda _: translator.snapshot(proxy))
    await server.start()
    async with envoy(xds, tmp_path):
        await eventually(lambda: _is(port, "v1"), 30)
        await eventually(lambda: server.sync().is_complete, 10)
    assert "a proxy refused it" in translator.problems()["EnvoyFilter default/broken"]
    await server.stop(1)
    app.close()


async def _is(port: int, version: str) -> bool:
    return await ask(port) == version


async def _anybody(*_: Any) -> str:
    return "edge"


@pytest.fixture
async def agent() -> AsyncIterator[Agent]:
    async with Agent() as made:
        yield made


def service_entry(number: int) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "busy", "namespace": "default"},
        "spec": {
            "hosts": ["busy.example"],
            "resolution": "DNS",
            "ports": [{"number": number, "name": "http", "protocol": "HTTP"}],
        },
    }


@pytest.mark.consul
async def test_many_edits_in_a_row_are_few_pushes_and_end_at_the_last(
    tmp_path: Path, agent: Agent
) -> None:
    """F7: at most ten pushes per second, however many edits there are, and the last one counts."""
    edits, path = 300, "/apis/networking.istio.io/v1/namespaces/default/serviceentries"
    async with control_plane(tmp_path, agent) as plane:
        await plane.add(workload("shop/front-1"))
        code, _ = await plane.ask("POST", path, **service_entry(1000))
        assert code == 201
        async with plane.stream("shop/front-1") as stream:
            await stream.ask("*", type_url=CLUSTER)
            pushes, started = 0, time.monotonic()

            async def edit() -> None:
                for number in range(1001, 1001 + edits):
                    code, answer = await plane.ask(
                        "PUT", f"{path}/busy", **service_entry(number)
                    )
                    assert code == 200, answer

            editing = asyncio.create_task(edit())
            last = f"outbound|{1000 + edits}||busy.example"
            async with asyncio.timeout(120 * SLACK):
                names: set[str] = set()
                while last not in names:
                    response = await stream.answer()
                    pushes += 1
                    names = {
                        cluster_pb2.Cluster.FromString(r.resource.value).name
                        for r in response.resources
                    }
            await editing
            assert pushes <= 10 + 10 * (time.monotonic() - started)
