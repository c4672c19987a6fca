"""Two real Envoys and a real Prometheus: what was sent is what is counted, by both reporters, with
Istio's names and labels, whatever is replaced meanwhile; and nobody else reads it.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import random
import ssl
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from metrics_rig import Meter, World, running, send
from prometheus_rig import listing, prometheus, proxies_job
from tls_rig import DEADLINE_S, Party, request

from dockermesh.controlplane.telemetry.scraper import ScraperFiles, scraper_token

pytestmark = [pytest.mark.binary, pytest.mark.asyncio(loop_scope="module")]

TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: t, namespace: istio-system}
spec: {metrics: [{overrides: [%s]}]}
"""
SOURCE = {
    "source_workload": "web",
    "source_workload_namespace": "front",
    "source_app": "web",
    "source_version": "v1",
    "source_canonical_service": "web",
    "source_canonical_revision": "v1",
    "source_cluster": "dockermesh",
    "source_principal": "spiffe://cluster.local/ns/front/sa/web",
}
DESTINATION = {
    "destination_workload": "db-v2",
    "destination_workload_namespace": "default",
    "destination_app": "db",
    "destination_version": "v2",
    "destination_canonical_service": "store",
    "destination_canonical_revision": "v2",
    "destination_cluster": "dockermesh",
    "destination_principal": "spiffe://cluster.local/ns/default/sa/db",
    "destination_service_namespace": "default",
}
HTTP = {
    "destination_service": "db.service.consul",
    "destination_service_name": "db",
    "request_protocol": "http",
    "grpc_response_status": "",
    "response_flags": "-",
}
TCP = {
    "destination_service": "raw.service.consul",
    "destination_service_name": "raw",
    "request_protocol": "tcp",
    "response_flags": "-",
}
BY_CLIENT = {"reporter": "source", "connection_security_policy": "unknown"}
BY_SERVER = {"reporter": "destination", "connection_security_policy": "mutual_tls"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("metrics")) as made:
        yield made


async def grown(
    meter: Meter, name: str, labels: tuple[str, ...], before: Counter[Any], by: int
) -> Counter[tuple[str, ...]]:
    """How much a metric has grown, when it has grown by so much in all."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            found = await meter.total(name, *labels)
            found.subtract(before)
            if sum(found.values()) >= by:
                return Counter({k: v for k, v in found.items() if v})
            await asyncio.sleep(0.05)


REQUESTS = "istio_requests_total"
BY_CODE = ("reporter", "response_code")


async def test_every_request_is_counted_by_both_with_all_labels(world: World) -> None:
    codes = random.Random(1).choices([200, 201, 204, 302, 404, 418, 503], k=100)
    before = [await m.total(REQUESTS, *BY_CODE) for m in (world.web, world.db)]
    await send(world, codes)
    for meter, old, mine in (
        (world.web, before[0], BY_CLIENT),
        (world.db, before[1], BY_SERVER),
    ):
        got = await grown(meter, REQUESTS, BY_CODE, old, len(codes))
        sent = Counter((mine["reporter"], str(code)) for code in codes)
        assert got == sent
        (labels,) = [
            labels
            for name, labels, _ in await meter.series(REQUESTS)
            if labels["response_code"] == "418"
        ]
        told = {**SOURCE, **DESTINATION, **HTTP, **mine, "response_code": "418"}
        assert labels == told


async def _call(world: World, status: str, messages: int) -> str:
    """The status of a call to the server by the client's proxy."""
    options = [("grpc.default_authority", "rpc")]
    target = f"127.0.0.1:{world.rpc}"
    async with grpc.aio.insecure_channel(target, options) as channel:
        call = channel.unary_stream(f"/test.Echo/{status}")(b"%d" % messages)
        seen = 0
        try:
            async with asyncio.timeout(DEADLINE_S):
                async for _ in call:
                    seen += 1
        except grpc.RpcError:
            pass
        assert seen == messages
        return (await call.code()).name


async def test_calls_of_grpc_are_counted_with_their_status(world: World) -> None:
    labels = ("reporter", "request_protocol", "response_code", "grpc_response_status")
    before = [await m.total(REQUESTS, *labels) for m in (world.web, world.db)]
    sent = {"OK": 5, "NOT_FOUND": 3, "UNAVAILABLE": 2}
    for status, number in sent.items():
        for messages in range(number):
            assert await _call(world, status, messages) == status
    numbers = {name: str(grpc.StatusCode[name].value[0]) for name in sent}
    for meter, old, mine in (
        (world.web, before[0], BY_CLIENT),
        (world.db, before[1], BY_SERVER),
    ):
        got = await grown(meter, REQUESTS, labels, old, sum(sent.values()))
        assert got == {
            (mine["reporter"], "grpc", "200", numbers[name]): number
            for name, number in sent.items()
        }
        rows = await meter.series(REQUESTS)
        (labelled,) = [
            row
            for _, row, _ in rows
            if row["grpc_response_status"] == numbers["NOT_FOUND"]
        ]
        told = {
            **HTTP,
            "destination_service": "rpc.service.consul",
            "destination_service_name": "rpc",
            "request_protocol": "grpc",
            "grpc_response_status": numbers["NOT_FOUND"],
            "response_code": "200",
        }
        assert labelled == {**SOURCE, **DESTINATION, **mine, **told}


async def test_histograms_have_istios_buckets_and_the_labels_of_its_boards(
    world: World,
) -> None:
    await send(world, [200])
    for name in (
        "istio_request_duration_milliseconds",
        "istio_request_bytes",
        "istio_response_bytes",
    ):
        rows = await world.db.series(f"{name}_bucket")
        ends = {labels["le"] for _, labels, _ in rows}
        assert ends >= {"0.5", "1", "5", "10", "1000", "3600000", "+Inf"}
        assert len(ends) == 20
        assert {key for _, labels, _ in rows for key in labels} == {
            "le",
            "reporter",
            "response_code",
            "connection_security_policy",
            "source_workload",
            "source_workload_namespace",
            "destination_workload",
            "destination_workload_namespace",
            "destination_service",
        }


async def test_who_comes_without_a_certificate_has_no_name(world: World) -> None:
    before = await world.db.total(
        REQUESTS, "source_workload", "connection_security_policy"
    )
    claims = "x-dockermesh-peer: web|front|web|v1|web|v1\r\n"
    status, _ = await request(world.plain, host="db", path="/200", header=claims)
    assert status == 200
    labels = ("source_workload", "connection_security_policy")
    got = await grown(world.db, REQUESTS, labels, before, 1)
    assert got == {("unknown", "none"): 1}


async def test_no_header_tells_the_server_who_calls_or_reaches_the_app(
    world: World,
) -> None:
    status, seen = await request(world.http, host="db", path="/200")
    assert status == 200
    assert not [name for name in seen if "dockermesh" in name.lower()]
    assert "web|" not in json.dumps(seen)


async def test_bytes_of_connections_are_equal_everywhere(world: World) -> None:
    names = ("istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total")
    before = [
        [await m.total(name, "reporter") for name in names]
        for m in (world.web, world.db)
    ]
    sizes = [1, 1000, 54_321]
    for size in sizes:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.tcp)
        writer.write(b"x" * size)
        assert len(await reader.readexactly(2 * size)) == 2 * size
        opened = await grown(
            world.db, "istio_tcp_connections_opened_total", (), Counter(), 1
        )
        assert sum(opened.values()) >= 1, "counted while it is open"
        writer.close()
    for meter, old, mine in (
        (world.web, before[0], BY_CLIENT),
        (world.db, before[1], BY_SERVER),
    ):
        for name, was, factor in zip(names, old, (1, 2), strict=True):
            got = await grown(meter, name, ("reporter",), was, factor * sum(sizes))
            assert got == {(mine["reporter"],): factor * sum(sizes)}
        for name in ("opened", "closed"):
            metric = f"istio_tcp_connections_{name}_total"
            rows = await meter.series(metric)
            assert len(rows) == 1, rows
            _, labels, value = rows[0]
            assert (labels, value) == (
                {**SOURCE, **DESTINATION, **TCP, **mine},
                len(sizes),
            )


async def test_nothing_is_lost_when_listeners_are_replaced(world: World) -> None:
    before = [await m.total(REQUESTS) for m in (world.web, world.db)]
    for number in range(3):
        await send(world, [200] * 5)
        await world.take(
            "{kind: MeshConfig, spec: {accessLogFile: /dev/stdout, accessLogFormat: "
            f"'{number}'}}}}"
        )
    await world.drained()
    await send(world, [200])
    for meter, old in zip((world.web, world.db), before, strict=True):
        assert sum((await grown(meter, REQUESTS, (), old, 16)).values()) == 16


async def test_telemetry_changes_labels_and_turns_metrics_off(world: World) -> None:
    count = (
        "{match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {path: {value:"
        " request.path}, source_app: {operation: REMOVE}}}"
    )
    await world.take(TELEMETRY % count)
    await send(world, [201])
    got = await grown(world.web, REQUESTS, ("path", "source_app"), Counter(), 1)
    assert got["/201", ""] == 1
    assert ("/201", "") not in await world.db.total(REQUESTS, "path", "source_app")

    before = [await m.total(REQUESTS) for m in (world.web, world.db)]
    # Between the proxies there are connections to the listener of before.
    await world.take(TELEMETRY % "{disabled: true}")
    await world.drained()
    await send(world, [200] * 3)
    await world.take()
    await world.drained()
    await send(world, [200])
    for meter, old in zip((world.web, world.db), before, strict=True):
        assert sum((await grown(meter, REQUESTS, (), old, 1)).values()) == 1


async def test_ten_thousand_values_of_a_header_are_bounded_and_what_is_dropped_shows(
    world: World,
) -> None:
    label = (
        "{match: {metric: REQUEST_COUNT, mode: CLIENT}, tagOverrides: {user: {value:"
        " \"request.headers['x-user']\"}}}"
    )
    totals = "dockermesh_requests_total"
    await world.take(TELEMETRY % label)
    await world.drained()
    reader, writer = await asyncio.open_connection("127.0.0.1", world.http)
    before = await world.web.total(totals)
    for n in range(10_000):
        head = f"GET /204 HTTP/1.1\r\nhost: db\r\nx-user: {n}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 204")
    writer.close()
    await grown(world.web, totals, (), before, 10_000)
    rows = [row for row in await world.web.series(REQUESTS) if "user" in row[1]]
    assert 3000 < len(rows) <= 4000
    all_counted = sum((await world.web.total(REQUESTS)).values())
    all_requests = sum((await world.web.total(totals)).values())
    assert all_requests - all_counted >= 6000
    await world.take()


async def test_only_prometheus_and_the_control_plane_read_a_pods_metrics(
    world: World,
) -> None:
    async def read(party: Party | None) -> int:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if party is not None:
            context.load_cert_chain(party.chain, party.key)
        with suppress(OSError, ssl.SSLError):
            reader, writer = await asyncio.open_connection(
                world.db.workload.address, 15090, ssl=context
            )
            writer.write(b"GET /stats/prometheus HTTP/1.1\r\nhost: x\r\n\r\n")
            line = await reader.readline()
            writer.close()
            return int(line.split()[1]) if line else 0
        return 0

    def party(name: str, namespace: str = "istio-system") -> Party:
        folder = world.folder / f"{namespace}-{name}"
        return Party(folder, world.authority, namespace, name)

    assert await read(party("dockermesh-prometheus")) == 200
    assert await read(party("dockermesh-control-plane")) == 200
    assert await read(party("dockermesh-prometheus", "default")) == 0
    assert await read(party("web", "front")) == 0
    assert await read(None) == 0


@pytest.mark.prometheus
async def test_a_prometheus_finds_and_reads_all_proxies(
    world: World, tmp_path: Path
) -> None:
    token = scraper_token("of the API")
    folder = tmp_path / "files"
    files = ScraperFiles(folder, world.authority, lambda: "cluster.local", token)
    files.renew(datetime.datetime.now(datetime.UTC))

    async with listing(world.workloads.values, token) as listed_at:
        config = f"scrape_configs:{proxies_job(folder, listed_at)}"
        async with prometheus(tmp_path, config) as reader:
            await send(world, [200, 503])
            query = f'sum by (pod) ({REQUESTS}{{response_code="503"}})'
            found: dict[str, float] = {}
            async with asyncio.timeout(DEADLINE_S):
                while found.keys() < {"shop/web-1", "shop/db-v2-1"}:
                    found = await reader.ask(query)
                    await asyncio.sleep(0.2)
            up = await reader.ask("up")
            assert up == {"shop/web-1": 1.0, "shop/db-v2-1": 1.0}
            assert len({w.address for w in world.workloads.values()}) == 2
