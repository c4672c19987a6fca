"""The control plane's HTTP pages on a real port: open is only what has to be, and reports say what
is so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from dockermesh.ca import Leaf
from dockermesh.client.inspect.dump import read_dump
from dockermesh.controlplane.debug import make_debug_app, workload_report
from dockermesh.controlplane.spans.collector import SpanCollector
from dockermesh.model import (
    Catalog,
    Endpoint,
    Health,
    Port,
    Protocol,
    Refusal,
    ServedPort,
    Service,
    Workload,
)
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.translator import Translator
from dockermesh.xds import ProxyStatus, Snapshot, Sync

TOKEN = "a-token"


class View:
    """A control plane that waits for its registry."""

    missing = ("the consul registry has not been read yet",)
    waited = 0
    spans = SpanCollector("", ())

    def readiness(self) -> list[str]:
        return list(self.missing)

    def catalog(self) -> Catalog:
        return Catalog(
            workloads={
                "shop/web-1": Workload(id="1", name="shop/web-1", namespace="edge")
            }
        )

    def proxies(self) -> list[ProxyStatus]:
        return []

    def sync(self) -> Sync:
        return Sync(0, 0, 0)

    async def settled(self) -> None:
        self.waited += 1

    def snapshot_of(self, workload: str) -> Snapshot | None:
        return (
            Translator().snapshot(Proxy(id=workload))
            if workload == "shop/web-1"
            else None
        )

    def trust_domain(self) -> str:
        return "cluster.local"

    def certificates(self) -> dict[str, Leaf]:
        return {}

    def config_problems(self) -> list[str]:
        return []

    def warnings(self) -> list[str]:
        return []

    def host_problems(self) -> list[str]:
        return []

    def metrics_dropped(self) -> list[str]:
        return ["shop/web-1 has no room"]

    def refused(self) -> list[Refusal]:
        return []

    def metrics_text(self) -> str:
        return "dockermesh_services 0.0\n"


@pytest.fixture
async def server() -> AsyncIterator[tuple[TestServer, View]]:
    view = View()
    app: web.Application = make_debug_app(view, TOKEN)
    async with TestServer(app) as running:
        yield running, view


async def test_what_a_proxy_should_have_is_shown_as_envoy_shows_what_it_has(
    server: tuple[TestServer, View],
) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with ClientSession(headers=headers) as session:
        for name in ("shop/web-1", "shop/web-1.edge"):
            async with session.get(
                server[0].make_url("/debug/config_dump"), params={"proxyID": name}
            ) as answer:
                dump = read_dump(await answer.read(), "page")
            assert "virtualOutbound" in {
                listener["name"] for listener in dump.dynamic_listeners()
            }
            assert "BlackHoleCluster" in {
                cluster["name"] for cluster in dump.dynamic_clusters()
            }
        async with session.get(
            server[0].make_url("/debug/config_dump?proxyID=nobody")
        ) as answer:
            assert answer.status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/metrics",
        "/debug/config_dump",
        "/debug/workloads",
        "/debug/syncz",
        "/debug/registryz",
        "/nowhere",
        "/",
    ],
)
@pytest.mark.parametrize(
    "header",
    ["", "Bearer wrong", "Bearer ", "Basic a-token", "a-token", "Bearer a-token2"],
)
async def test_without_the_token_every_page_is_401(
    server: tuple[TestServer, View], path: str, header: str
) -> None:
    headers = {"Authorization": header} if header else {}
    async with (
        ClientSession() as session,
        session.get(server[0].make_url(path), headers=headers) as answer,
    ):
        assert answer.status == 401
        assert "dockermesh_services" not in await answer.text()


async def test_with_the_token_pages_are_shown(server: tuple[TestServer, View]) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with ClientSession(headers=headers) as session:
        for path in (
            "/metrics",
            "/debug/workloads",
            "/debug/syncz",
            "/debug/registryz",
        ):
            async with session.get(server[0].make_url(path)) as answer:
                assert answer.status == 200, path


async def test_health_needs_no_token_and_readiness_says_what_is_missing(
    server: tuple[TestServer, View],
) -> None:
    running, view = server
    async with ClientSession() as session:
        async with session.get(running.make_url("/healthz")) as answer:
            assert answer.status == 200
        async with session.get(running.make_url("/readyz")) as answer:
            assert (answer.status, await answer.text()) == (
                503,
                "the consul registry has not been read yet\n",
            )
        view.missing = ()
        async with session.get(running.make_url("/readyz")) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("states", "health"),
    [
        ([Health.HEALTHY], "healthy"),
        ([Health.HEALTHY, Health.UNHEALTHY], "unhealthy"),
        ([Health.DRAINING, Health.HEALTHY], "draining"),
        ([], "none"),
    ],
)
def test_a_workload_is_as_healthy_as_its_worst_endpoint(
    states: list[Health], health: str
) -> None:
    own = Workload(
        id="1", name="shop/a-1", service="a", ports=(ServedPort("a", 80, "http"),)
    )
    endpoints = tuple(
        Endpoint("10.0.0.1", n, workload="shop/a-1", health=s)
        for n, s in enumerate(states, 1)
    )
    service = Service("a", "a.service.consul", (Port(80, Protocol.HTTP),), endpoints)
    report = workload_report(
        Catalog({"a.service.consul": service}, {"shop/a-1": own}), [], Sync(0, 0, 0)
    )
    (listed,) = report["workloads"]
    assert (listed["health"], listed["xds"]) == (health, "NOT CONNECTED")


async def test_what_proxies_have_is_told_when_they_were_told_of_all_that_is_known(
    server: tuple[TestServer, View],
) -> None:
    running, view = server
    async with ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        for count, page in enumerate(
            ("workloads", "syncz", "config_dump?proxyID=shop/web-1"), 1
        ):
            async with session.get(running.make_url(f"/debug/{page}")) as answer:
                assert (answer.status, view.waited) == (200, count)
