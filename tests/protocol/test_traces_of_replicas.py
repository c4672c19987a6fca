"""Several control planes over TLS: a trace whose spans they share is shown whole, by each of them;
and nobody else reads what they keep.
"""

from __future__ import annotations

import contextlib
import datetime
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from ports import free_port, own_address

from dockermesh.ca import Authority, new_material
from dockermesh.controlplane.spans.collector import SpanCollector
from dockermesh.controlplane.spans.replicas import PATH, Replicas
from dockermesh.controlplane.trust.check_tls import CheckTls
from dockermesh.http.credentials import load_leaf
from dockermesh.http.port import HttpPort
from dockermesh.model import Identity
from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.runtime.repeats import Repeats


def authority() -> Authority:
    return Authority(new_material("cluster.local", datetime.datetime.now(datetime.UTC)))


def span(number: int, parent: int = 0, *, name: str) -> dict[str, Any]:
    return {
        "traceId": f"{1:032x}",
        "id": f"{number:016x}",
        "name": name,
        "timestamp": 1_000_000 + number,
        "duration": 10,
        "tags": {"istio.canonical_service": name},
        **({"parentId": f"{parent:016x}"} if parent else {}),
    }


@dataclass(frozen=True)
class Two:
    """Two replicas at one port of two addresses, under one authority."""

    authority: Authority
    places: list[str]
    port: int
    collectors: list[SpanCollector]

    async def traces(self, which: int, **query: str) -> dict[str, Any]:
        """What the page of one of them tells."""
        app = web.Application()
        app.router.add_get("/debug/traces", self.collectors[which].page)
        async with TestClient(TestServer(app)) as client:
            answer = await client.get("/debug/traces", params=query)
            assert answer.status == 200
            told: dict[str, Any] = await answer.json()
            return told

    async def read(self, tls: ssl.SSLContext) -> int:
        """The status with which one is answered who asks as another replica does; 0 for none."""
        url = f"https://{self.places[0]}:{self.port}{PATH}"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(url, ssl=tls) as answer,
            ):
                return answer.status
        except aiohttp.ClientError:
            return 0


@pytest_asyncio.fixture
async def two() -> AsyncIterator[Two]:
    async with _two(authority()) as made:
        yield made


@contextlib.asynccontextmanager
async def _two(
    shared: Authority, servers: Authority | None = None, name: str = CONTROL_PLANE_HOST
) -> AsyncIterator[Two]:
    places, port = [own_address(), own_address()], free_port()
    tls = CheckTls(lambda: shared, lambda: "cluster.local", by_name=True)

    async def addresses() -> Sequence[str]:
        return places

    collectors, ports = [], list[HttpPort]()
    for place in places:
        collector = SpanCollector(
            f"{place}:{port}", (name,), replicas=Replicas(port, tls.context, addresses)
        )
        collectors.append(collector)
        ports += collector.ports(lambda: servers or shared, Repeats())
    for listening in ports:
        await listening.start()
    try:
        yield Two(shared, places, port, collectors)
    finally:
        for listening in ports:
            await listening.stop()


async def test_each_replica_shows_the_whole_trace(two: Two) -> None:
    two.collectors[0].receiver.ring.add("a", span(1, name="web"))
    two.collectors[1].receiver.ring.add("b", span(2, 1, name="db"))
    for which in (0, 1):
        told = await two.traces(which)
        assert [[s["name"] for s in t] for t in told["traces"]] == [["web", "db"]]
        assert told["warnings"] == []
    assert len((await two.traces(0, service="db"))["traces"]) == 1


async def test_a_replica_that_is_away_is_named_and_the_rest_is_shown(two: Two) -> None:
    two.collectors[0].receiver.ring.add("a", span(1, name="web"))
    two.places[1] = own_address()
    told = await two.traces(0)
    assert len(told["traces"]) == 1
    (warning,) = told["warnings"]
    assert two.places[1] in warning and two.places[0] not in warning


async def test_only_the_control_plane_reads_what_is_kept(two: Two) -> None:
    def member(namespace: str, account: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        identity = Identity("cluster.local", namespace, account)
        load_leaf(context, two.authority.issue_workload(identity))
        return context

    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    assert await two.read(member("istio-system", "dockermesh-control-plane")) == 200
    assert await two.read(member("default", "dockermesh-control-plane")) == 403
    assert await two.read(member("istio-system", "web")) == 403
    assert await two.read(stranger) == 0


@pytest.mark.parametrize("is_other_mesh", [True, False])
async def test_who_is_no_control_plane_of_this_mesh_is_not_believed(
    is_other_mesh: bool,
) -> None:
    other = authority() if is_other_mesh else None
    name = CONTROL_PLANE_HOST if is_other_mesh else "web.example.com"
    async with _two(authority(), other, name) as two:
        two.collectors[1].receiver.ring.add("b", span(2, name="forged"))
        told = await two.traces(0)
        assert told["traces"] == []
        assert len(told["warnings"]) == 1
