"""Spans that were taken are sent on to a real HTTP server; one that is away costs nothing but the
spans.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from patience import SLACK

from dockermesh.controlplane.spans.forwarder import SpanForwarder
from dockermesh.controlplane.spans.receiver import SpanReceiver


def span(number: int) -> dict[str, Any]:
    return {"traceId": f"{number:016x}", "id": f"{number:016x}", "timestamp": number}


@asynccontextmanager
async def collector(status: int = 202) -> AsyncIterator[tuple[str, list[Any]]]:
    """A collector's URL, and what it was sent."""
    taken: list[Any] = []

    async def take(request: web.Request) -> web.Response:
        taken.extend(await request.json())
        return web.Response(status=status)

    app = web.Application()
    app.router.add_post("/api/v2/spans", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/", taken
    finally:
        await runner.cleanup()


@asynccontextmanager
async def running(forwarder: SpanForwarder) -> AsyncIterator[None]:
    task = asyncio.create_task(forwarder.run())
    try:
        yield
    finally:
        task.cancel()


async def counted(forwarder: SpanForwarder, what: str, number: int) -> None:
    async with asyncio.timeout(5 * SLACK):
        while True:
            if forwarder.counts[what] >= number:
                return
            await asyncio.sleep(0.01)


async def test_all_are_sent_on_once_and_in_their_order() -> None:
    async with collector() as (url, taken):
        forwarder = SpanForwarder(url)
        async with running(forwarder):
            forwarder.add(span(n) for n in range(1200))
            await counted(forwarder, "sent", 1200)
            forwarder.add([span(1200)])
            await counted(forwarder, "sent", 1201)
        assert [s["timestamp"] for s in taken] == list(range(1201))
        assert forwarder.counts["dropped"] == 0


async def test_a_collector_that_refuses_or_is_away_costs_its_spans_and_is_told() -> (
    None
):
    async with collector(status=503) as (url, _):
        forwarder = SpanForwarder(url)
        async with running(forwarder):
            forwarder.add([span(1)])
            await counted(forwarder, "dropped", 1)
            assert forwarder.problem == "HTTP 503"
    away = SpanForwarder(url)
    async with running(away):
        away.add([span(1)])
        await counted(away, "dropped", 1)
    report = SpanReceiver(forwarder=away).report()["sent_on"]
    assert report["dropped"] == 1 and "onnect" in report["problem"]


async def test_what_has_no_room_is_dropped_the_oldest_first() -> None:
    async with collector() as (url, taken):
        forwarder = SpanForwarder(url, most_waiting=10)
        forwarder.add(span(n) for n in range(25))
        assert forwarder.counts["dropped"] == 15
        async with running(forwarder):
            await counted(forwarder, "sent", 10)
        assert [s["timestamp"] for s in taken] == list(range(15, 25))


async def test_nobody_is_sent_anything_unless_somebody_is_named() -> None:
    forwarder = SpanForwarder("")
    forwarder.add([span(1)])
    await forwarder.run()
    assert "sent_on" not in SpanReceiver(forwarder=forwarder).report()
