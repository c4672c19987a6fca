"""Grafana's boards ask a real Prometheus that has read real Envoys: every query gives data."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from board_files import BOARDS, queries
from metrics_rig import World, running, send
from prometheus_rig import Prometheus, listing, prometheus, proxies_job, silent

from dockermesh.controlplane.telemetry.scraper import ScraperFiles, scraper_token

pytestmark = [
    pytest.mark.binary,
    pytest.mark.prometheus,
    pytest.mark.asyncio(loop_scope="module"),
]
VALUES = {
    "mesh.json": {},
    "service.json": {"service": "db.service.consul|raw.service.consul"},
    "workload.json": {"namespace": ".*", "workload": ".*"},
}
BY_VARIABLE = {
    "service": "count by (destination_service) (istio_requests_total)",
    "namespace": 'count by (namespace) (up{job="proxies"})',
    "workload": 'count by (workload) (up{job="proxies"})',
}


@dataclass(frozen=True)
class Rig:
    """A Prometheus that reads two proxies, between which there is traffic of each kind."""

    world: World
    reader: Prometheus


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("boards")
    token = scraper_token("of the API")
    async with running(folder) as world:
        own = folder / "files"
        files = ScraperFiles(own, world.authority, lambda: "cluster.local", token)
        files.renew(datetime.datetime.now(datetime.UTC))
        async with listing(world.workloads.values, token) as listed_at:
            config = f"scrape_configs:{proxies_job(own, listed_at, '1s')}"
            async with prometheus(folder, config) as reader:
                busy = asyncio.create_task(_traffic(world))
                yield Rig(world, reader)
                busy.cancel()


async def _traffic(world: World) -> None:
    while True:
        await send(world, [200, 503])
        reader, writer = await asyncio.open_connection("127.0.0.1", world.tcp)
        writer.write(b"x" * 100)
        await reader.readexactly(200)
        writer.close()
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("name", list(VALUES))
async def test_every_query_of_the_board_gives_data(rig: Rig, name: str) -> None:
    values = {"__rate_interval": "30s", **VALUES[name]}
    assert await silent(rig.reader, queries(BOARDS[name], values)) == {}


async def test_the_other_board_is_the_control_planes() -> None:
    assert set(BOARDS) - set(VALUES) == {"control-plane.json"}


async def test_variables_offer_what_there_is(rig: Rig) -> None:
    wanted = {"service": "db.service.consul", "namespace": "front", "workload": "web"}
    for board in BOARDS.values():
        for variable in board["templating"]["list"]:
            name = variable["name"]
            label = variable["definition"].rpartition(", ")[2].rstrip(")")
            found = await rig.reader.ask(BY_VARIABLE[name], label)
            assert wanted[name] in found, (name, found)


async def test_what_fails_and_what_is_not_encrypted_is_seen(rig: Rig) -> None:
    asked = queries(BOARDS["mesh.json"], {"__rate_interval": "30s"})
    assert await silent(rig.reader, asked) == {}
    by_title = {title.split(" ", 1)[1]: query for title, query in asked.items()}
    (row,) = await rig.reader.rows(by_title["Success A"])
    assert 0.4 < float(row["value"][1]) < 0.6
    (row,) = await rig.reader.rows(by_title["Without mutual TLS A"])
    assert float(row["value"][1]) == 0
