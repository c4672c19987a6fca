"""What the control plane reads of two real Envoys when somebody looks is what was sent, to the
request, and what `top` and `graph` show of it agrees.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from bridge_rig import eventually
from metrics_rig import World, running, send
from ports import own_address
from tls_rig import DEADLINE_S, Party, request

from dockermesh.client.traffic.stats import By, Look, Name, Pair, lines, read_look
from dockermesh.controlplane.traffic.looking import Looking
from dockermesh.controlplane.traffic.room import RoomKeeper
from dockermesh.controlplane.trust.check_tls import CheckTls
from dockermesh.translate.telemetry.metrics import MOST_COUNTERS

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]
CALL = Pair(Name("web", "front"), Name("db-v2", "default"), "db.service.consul")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("traffic")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def looking(world: World) -> AsyncIterator[Looking]:
    tls = CheckTls(lambda: world.authority, lambda: "cluster.local")
    made = Looking(lambda: world.workloads, tls.context)
    yield made
    await made.close()


async def looked(looking: Looking, requests: int) -> Look:
    """A look in which so many requests of the one to the other are counted."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            look = read_look(await looking.look())
            call = look.edges.get(CALL)
            if call is not None and call.requests >= requests:
                return look
            await asyncio.sleep(0.2)


async def test_top_and_graph_agree_to_the_request(
    world: World, looking: Looking
) -> None:
    first = read_look(await looking.look())
    assert (first.proxies, first.silent) == (2, ())
    before = first.edges[CALL].requests if CALL in first.edges else 0
    codes = [200] * 30 + [404] * 5 + [503] * 5
    await send(world, codes)

    second = await looked(looking, before + len(codes))

    (line,) = [
        x
        for x in lines(second, first, By.EDGE)
        if x.service == CALL.service and x.source == str(CALL.source)
    ]
    assert (line.recent.requests, line.recent.failures) == (40, 5)
    assert line.recent.codes == Counter(map(str, codes))
    assert line.success == 1 - 5 / 40
    assert line.mtls == 1.0
    # Each request once, though both sides report it.
    (workload,) = lines(second, first, By.WORKLOAD)
    (service,) = [x for x in lines(second, first, By.SERVICE) if x.name == CALL.service]
    assert workload.name == "db-v2.default"
    assert workload.recent.requests == service.recent.requests == 40


async def test_who_has_no_proxy_is_counted_by_the_server(
    world: World, looking: Looking
) -> None:
    status, _ = await request(world.plain, host="db", path="/200")
    assert status == 200
    unknown = replace(CALL, source=Name("unknown"))
    async with asyncio.timeout(DEADLINE_S):
        while True:
            look = read_look(await looking.look())
            found = [p for p in look.edges if p.source == unknown.source]
            if found:
                break
            await asyncio.sleep(0.2)
    assert sum(look.edges[p].plain for p in found) >= 1


async def test_a_proxy_that_is_not_there_is_named(world: World) -> None:
    web = world.web.workload
    gone = replace(web, name="shop/gone-1", address=own_address())
    tls = CheckTls(lambda: world.authority, lambda: "cluster.local")
    looking = Looking(lambda: {gone.name: gone, web.name: web}, tls.context)
    try:
        report = await looking.look()
    finally:
        await looking.close()
    assert (report["proxies"], report["silent"]) == (2, ["shop/gone-1"])


async def test_a_stranger_learns_nothing(world: World) -> None:
    party = Party(world.folder, world.authority, "shop", "app")
    web = world.web.workload
    looking = Looking(lambda: {web.name: web}, party.context)
    try:
        report = await looking.look()
    finally:
        await looking.close()
    assert report["silent"] == [web.name]
    assert report["edges"] == []


async def test_a_proxy_without_room_for_more_metrics_is_told_of(world: World) -> None:
    tls = CheckTls(lambda: world.authority, lambda: "cluster.local")
    keeper = RoomKeeper(lambda: world.workloads, tls.context, first=0.0)
    label = (
        "{match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {user: {value:"
        " \"request.headers['x-user']\"}}}"
    )
    await world.take(f"""
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {{name: t, namespace: istio-system}}
spec: {{metrics: [{{overrides: [{label}]}}]}}
""")
    await world.drained()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.http)
    for n in range(MOST_COUNTERS + 500):
        head = f"GET /204 HTTP/1.1\r\nhost: db\r\nx-user: {n}\r\n\r\n"
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.close()
    asking = asyncio.create_task(keeper.run())
    try:
        await eventually(lambda: bool(keeper.full), 30)
    finally:
        asking.cancel()
        await world.take()
    (sentence,) = keeper.warnings()
    assert sentence.startswith("shop/web-1 has no room for more series of metrics: ")
    assert keeper.full["shop/web-1"].uncounted >= 500
