"""Real gRPC clients that misbehave: nothing they send hurts the server or another client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import grpc
import grpc.aio
import pytest
from bridge_rig import eventually
from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from patience import SLACK

from dockermesh.xds import (
    CLUSTER,
    ENDPOINTS,
    LISTENER,
    AdsServer,
    ConnectedProxy,
    NodeInfo,
    Refused,
    ResourceSet,
    Snapshot,
    make_resource,
)
from dockermesh.xds.connections import Bounds

SERVICE = "/envoy.service.discovery.v3.AggregatedDiscoveryService"
NAMES = [f"svc-{i}" for i in range(10)]


def snapshot(body: str = "1") -> Snapshot:
    return Snapshot(
        endpoints=ResourceSet(make_resource(ENDPOINTS, n, body.encode()) for n in NAMES)
    )


async def authorize(metadata: Mapping[str, str], node: NodeInfo, _peer: str) -> str:
    if metadata.get("authorization") == "Bearer wrong":
        raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the token is not known")
    return node.id


class Client:
    """One stream, raw or by message."""

    def __init__(
        self,
        port: int,
        *,
        delta: bool = False,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_receive_message_length", -1),
        ]
        options.append(("grpc.max_send_message_length", -1))
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        self.delta = delta
        method = "DeltaAggregatedResources" if delta else "StreamAggregatedResources"
        self.call = self.channel.stream_stream(f"{SERVICE}/{method}")(metadata=metadata)

    async def raw(self, raw: bytes) -> None:
        await self.call.write(raw)

    async def send(self, *, node: str = "", error: str = "", **fields: Any) -> None:
        message: Any = (
            discovery_pb2.DeltaDiscoveryRequest
            if self.delta
            else discovery_pb2.DiscoveryRequest
        )(**fields)
        if node:
            message.node.id = node
        if error:
            message.error_detail.message = error
        await self.raw(message.SerializeToString())

    async def receive(self) -> Any:
        async with asyncio.timeout(10 * SLACK):
            raw = await self.call.read()
        assert raw is not grpc.aio.EOF, (
            f"ended: {await self.call.code()} {await self.call.details()}"
        )
        return (
            discovery_pb2.DeltaDiscoveryResponse
            if self.delta
            else discovery_pb2.DiscoveryResponse
        ).FromString(raw)

    async def ended(self) -> grpc.StatusCode:
        async with asyncio.timeout(10 * SLACK):
            return await self.call.code()

    async def silent_until(self, **fields: Any) -> Any:
        """The next response after a request that is surely answered: nothing may come before it."""
        await self.send(**fields)
        return await self.receive()


@pytest.fixture
async def served() -> AsyncIterator[tuple[AdsServer, int]]:
    server = AdsServer(authorize=authorize)
    port = server.add_port("127.0.0.1:0")
    first = snapshot()
    server.publish(lambda _proxy: first)
    await server.start()
    yield server, port
    await server.stop(1)


async def test_stale_nonces_duplicate_acks_and_unknown_types_are_not_answered(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    client = Client(port)
    await client.send(node="a", type_url=ENDPOINTS, resource_names=["svc-0"])
    first = await client.receive()
    ack = {
        "version_info": first.version_info,
        "response_nonce": first.nonce,
        "type_url": ENDPOINTS,
    }
    await client.send(**ack, resource_names=["svc-0"])
    await client.send(**ack, resource_names=["svc-0"])
    await client.send(**(ack | {"response_nonce": "stale"}), resource_names=["svc-1"])
    await client.send(type_url="type.googleapis.com/nobody.knows", resource_names=["x"])
    await client.send(
        version_info="v", response_nonce="n", type_url="", resource_names=["x"]
    )
    answer = await client.silent_until(**ack, resource_names=["svc-0", "svc-2"])
    assert [r.value for r in answer.resources] == [b"1"]
    assert answer.nonce != first.nonce
    assert sum(server.metrics.stale_nonces.values()) == 1
    assert server.metrics.unknown_types == 2


@pytest.mark.parametrize("delta", [True, False])
async def test_resubscribing_sends_again(
    served: tuple[AdsServer, int], delta: bool
) -> None:
    _, port = served
    client = Client(port, delta=delta)
    for round_ in range(2):
        if delta:
            await client.send(
                node="a", type_url=ENDPOINTS, resource_names_subscribe=["svc-0"]
            )
        else:
            await client.send(node="a", type_url=ENDPOINTS, resource_names=["svc-0"])
        answer = await client.receive()
        assert len(answer.resources) == 1, round_
        gone = (
            {"resource_names_unsubscribe": ["svc-0"]}
            if delta
            else {"resource_names": []}
        )
        await client.send(type_url=ENDPOINTS, response_nonce=answer.nonce, **gone)


async def test_names_that_do_not_exist_are_answered_as_removed(
    served: tuple[AdsServer, int],
) -> None:
    _, port = served
    client = Client(port, delta=True)
    await client.send(
        node="a", type_url=ENDPOINTS, resource_names_subscribe=["svc-0", "nobody"]
    )
    answer = await client.receive()
    assert [r.name for r in answer.resources] == ["svc-0"]
    assert list(answer.removed_resources) == ["nobody"]


async def test_an_up_to_date_client_gets_nothing(served: tuple[AdsServer, int]) -> None:
    server, port = served
    client = Client(port, delta=True)
    versions = {n: r.version for n in NAMES if (r := snapshot().endpoints.get(n))}
    await client.send(
        node="a",
        type_url=ENDPOINTS,
        resource_names_subscribe=NAMES,
        initial_resource_versions=versions,
    )
    answer = await client.silent_until(type_url=CLUSTER)
    assert answer.type_url == CLUSTER, (
        "an empty mesh still answers clusters, so that Envoy does not wait"
    )
    assert server.metrics.resources_sent.total() == 0
    assert server.metrics.resumed == {ENDPOINTS: 1}


async def test_one_changed_name_on_reconnect_is_all_that_is_sent(
    served: tuple[AdsServer, int],
) -> None:
    _, port = served
    client = Client(port, delta=True)
    versions = {n: r.version for n in NAMES if (r := snapshot().endpoints.get(n))} | {
        "svc-3": "old",
        "gone": "1",
    }
    names = [*NAMES, "gone"]
    await client.send(
        node="a",
        type_url=ENDPOINTS,
        resource_names_subscribe=names,
        initial_resource_versions=versions,
    )
    answer = await client.receive()
    assert ([r.name for r in answer.resources], list(answer.removed_resources)) == (
        ["svc-3"],
        ["gone"],
    )


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("first", [True, False])
async def test_garbage_ends_the_stream_only(
    served: tuple[AdsServer, int], delta: bool, first: bool
) -> None:
    _, port = served
    good, bad = Client(port, delta=delta), Client(port, delta=delta)
    await good.send(node="good", type_url=CLUSTER)
    await good.receive()
    if not first:
        await bad.send(node="bad", type_url=CLUSTER)
        await bad.receive()
    await bad.raw(b"\xff\xff\xff\xff")
    assert await bad.ended() is grpc.StatusCode.INVALID_ARGUMENT
    await good.send(type_url="", response_nonce="")
    names = (
        {"resource_names_subscribe": ["svc-1"]}
        if delta
        else {"resource_names": ["svc-1"]}
    )
    assert len((await good.silent_until(type_url=ENDPOINTS, **names)).resources) == 1


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("metadata", [True, False], ids=["no id", "no node"])
async def test_a_first_request_that_does_not_say_whose_it_is_is_refused(
    served: tuple[AdsServer, int], delta: bool, metadata: bool
) -> None:
    server, port = served
    client = Client(port, delta=delta)
    message: Any = (
        discovery_pb2.DeltaDiscoveryRequest if delta else discovery_pb2.DiscoveryRequest
    )(type_url=CLUSTER)
    if metadata:
        message.node.metadata["x"] = "y"
    await client.raw(message.SerializeToString())
    assert await client.ended() is grpc.StatusCode.INVALID_ARGUMENT
    assert server.metrics.streams_refused == 1
    assert not server.metrics.pushes
    assert server.proxies() == []


async def test_a_refused_proxy_gets_a_status_and_no_bytes(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    client = Client(port, delta=True, metadata=(("authorization", "Bearer wrong"),))
    await client.send(node="a", type_url=CLUSTER)
    assert await client.ended() is grpc.StatusCode.UNAUTHENTICATED
    assert server.metrics.streams_refused == 1
    assert not server.metrics.pushes
    assert server.proxies() == []


async def test_large_requests_are_taken_and_oversize_ones_refused(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    client = Client(port, delta=True)
    message = discovery_pb2.DeltaDiscoveryRequest(type_url=ENDPOINTS)
    message.node.id = "big"
    message.node.metadata["x"] = "x" * 1_000_000
    message.resource_names_subscribe.extend(f"name-{i}" for i in range(10_000))
    await client.raw(message.SerializeToString())
    assert len((await client.receive()).removed_resources) == 10_000
    assert len(server.proxies()[0].proxy.node.metadata["x"]) == 1_000_000

    oversize = Client(port, delta=True)
    message.node.id = "oversize"
    message.node.metadata["x"] = "x" * 20_000_000
    await oversize.raw(message.SerializeToString())
    assert await oversize.ended() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [p.proxy.key for p in server.proxies()] == ["big"]


async def test_nothing_is_said_before_there_is_a_snapshot() -> None:
    server = AdsServer(authorize=authorize)
    port = server.add_port("127.0.0.1:0")
    await server.start()
    client = Client(port, delta=True)
    await client.send(node="a", type_url=ENDPOINTS, resource_names_subscribe=["svc-0"])
    asked = asyncio.Event()

    def nothing_yet(_proxy: ConnectedProxy) -> None:
        asked.set()

    server.publish(nothing_yet)
    async with asyncio.timeout(10 * SLACK):
        await asked.wait()
    assert not server.metrics.pushes
    assert not server.sync().is_complete
    known = snapshot()
    server.publish(lambda _proxy: known)
    assert [r.name for r in (await client.receive()).resources] == ["svc-0"]
    await server.stop(1)


async def test_a_newer_stream_replaces_the_older(served: tuple[AdsServer, int]) -> None:
    server, port = served
    old, new = Client(port, delta=True), Client(port, delta=True)
    await old.send(node="a", type_url=CLUSTER)
    await old.receive()
    await new.send(node="a", type_url=CLUSTER)
    await new.receive()
    assert await old.ended() is grpc.StatusCode.ABORTED
    assert len(server.proxies()) == 1


async def test_a_client_that_does_not_read_delays_nobody_and_gets_the_newest(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    slow, quick = Client(port, delta=True), Client(port, delta=True)
    for client, node in ((slow, "slow"), (quick, "quick")):
        await client.send(node=node, type_url=ENDPOINTS, resource_names_subscribe=NAMES)
    answer = await quick.receive()
    await eventually(lambda: server.sync().connected == 2, 10)
    for i in range(20):
        body = f"{i}" + "x" * 100_000
        current = snapshot(body)
        server.publish(lambda _proxy, current=current: current)
        await quick.send(type_url=ENDPOINTS, response_nonce=answer.nonce)
        answer = await quick.receive()
        assert answer.resources[0].resource.value == body.encode()
    first = await slow.receive()
    assert first.resources[0].resource.value == b"1"
    await slow.send(type_url=ENDPOINTS, response_nonce=first.nonce)
    newest = await slow.receive()
    assert newest.resources[0].resource.value == body.encode(), (
        "none of the states between"
    )


async def test_stopping_ends_streams_at_once_with_a_status(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    client = Client(port, delta=True)
    await client.send(node="a", type_url=CLUSTER)
    await client.receive()
    async with asyncio.timeout(5 * SLACK):
        await server.stop(10)
    assert await client.ended() is grpc.StatusCode.UNAVAILABLE


async def test_the_response_is_one_object_for_all_streams(
    served: tuple[AdsServer, int],
) -> None:
    server, port = served
    clients = [Client(port, delta=True) for _ in range(3)]
    answers = []
    for i, client in enumerate(clients):
        await client.send(
            node=f"n{i}", type_url=ENDPOINTS, resource_names_subscribe=NAMES
        )
        answers.append(await client.receive())
    assert len({a.nonce for a in answers}) == 1
    assert server.sync().connected == 3


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::]:0"])
async def test_idle_connections_of_a_peer_are_bounded_and_its_streams_go_on(
    address: str,
) -> None:
    bounds = Bounds(of_a_peer=5, young_of_a_peer=20, time_enough_s=0.5)
    server = AdsServer(authorize=authorize, bounds=bounds)
    port = server.add_port(address)
    first, second = snapshot(), snapshot("2")
    server.publish(lambda _proxy: first)
    await server.start()
    proxy = Client(port)
    await proxy.send(node="a", type_url=ENDPOINTS, resource_names=NAMES)
    got = await proxy.receive()
    acked = {"version_info": got.version_info, "response_nonce": got.nonce}
    await proxy.send(type_url=ENDPOINTS, resource_names=NAMES, **acked)

    idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]

    async def open_ones() -> int:
        return sum(not reader.at_eof() for reader, _ in idle)

    async def few_are_left() -> bool:
        return await open_ones() <= bounds.of_a_peer

    # An end is seen by who reads.
    reading = [asyncio.ensure_future(reader.read()) for reader, _ in idle]
    await eventually(few_are_left, 10)
    assert await open_ones() > 0, "the newest stay"
    assert server.metrics.connections_ended >= 190

    server.publish(lambda _proxy: second)
    assert len((await proxy.receive()).resources) == len(NAMES)
    late = Client(port)
    await late.send(node="b", type_url=ENDPOINTS, resource_names=NAMES)
    assert len((await late.receive()).resources) == len(NAMES)
    for _, writer in idle:
        writer.close()
    await asyncio.gather(*reading, return_exceptions=True)
    await server.stop(1)


async def test_a_client_that_does_not_accept_clusters_gets_listeners_all_the_same() -> (
    None
):
    """Nobody else sets the clock then: nothing more comes from it, and nothing is published."""

    def of(seconds: int) -> Snapshot:
        cluster = cluster_pb2.Cluster(name="c", connect_timeout={"seconds": seconds})
        body = cluster.SerializeToString()
        return Snapshot(
            clusters=ResourceSet([make_resource(CLUSTER, "c", body)]),
            listeners=ResourceSet([make_resource(LISTENER, "l", body)]),
        )

    state = [of(1)]
    server = AdsServer(authorize=authorize)
    port = server.add_port("127.0.0.1:0")
    server.publish(lambda _proxy: state[0])
    await server.start()
    try:
        client = Client(port, delta=True)
        for type_url in (CLUSTER, LISTENER):
            await client.send(
                node="a", type_url=type_url, resource_names_subscribe=["*"]
            )
            answer = await client.receive()
            await client.send(type_url=type_url, response_nonce=answer.nonce)
        await eventually(lambda: server.sync().is_complete, 5)

        state[0] = of(2)
        server.publish(lambda _proxy: state[0])
        assert [(await client.receive()).type_url for _ in range(2)] == [
            CLUSTER,
            LISTENER,
        ]
    finally:
        await server.stop(1)


async def test_one_proxy_whose_part_cannot_be_made_keeps_nothing_from_the_others() -> (
    None
):
    state = [snapshot("1")]
    broken: list[str] = []

    def look_up(proxy: ConnectedProxy) -> Snapshot:
        if proxy.key in broken:
            raise RuntimeError("a fault of ours")
        return state[0]

    server = AdsServer(authorize=authorize)
    port = server.add_port("127.0.0.1:0")
    server.publish(look_up)
    await server.start()
    try:
        clients = {name: Client(port, delta=True) for name in "abc"}
        for name, client in clients.items():
            await client.send(
                node=name, type_url=ENDPOINTS, resource_names_subscribe=["svc-0"]
            )
            answer = await client.receive()
            await client.send(type_url=ENDPOINTS, response_nonce=answer.nonce)

        broken, state[0] = ["a"], snapshot("2")
        server.publish(look_up)
        for name in "bc":
            [resource] = (await clients[name].receive()).resources
            assert resource.resource.value == b"2"

        # And it is not told as up to date, but gets its own with the next publish.
        assert not server.sync().is_complete
        broken.clear()
        server.publish(look_up)
        [resource] = (await clients["a"].receive()).resources
        assert resource.resource.value == b"2"
    finally:
        await server.stop(1)
