"""A control plane with a real Envoy, and a real Prometheus that reads it: every query of its board
gives data, and Istio's names have Istio's types, labels and buckets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio
from board_files import BOARDS, queries
from gateway_rig import World, world
from prometheus_rig import Prometheus, prometheus, silent

from dockermesh.controlplane.telemetry.scraper import scraper_token

pytestmark = [
    pytest.mark.binary,
    pytest.mark.consul,
    pytest.mark.prometheus,
    pytest.mark.asyncio(loop_scope="module"),
]
ROUTES = "/apis/networking.istio.io/v1/namespaces/default/virtualservices"
CONFIG = """
scrape_configs:
- job_name: control-plane
  scrape_interval: 1s
  scrape_timeout: 1s
  authorization: {type: Bearer, credentials: %s}
  static_configs: [{targets: ["%s"]}]
"""


def routes(name: str, number: int) -> dict[str, object]:
    """The gateway's routes, with a header that is another each time."""
    destination = {"host": "shop.example.com", "port": {"number": 80}}
    headers = {"response": {"set": {"x-number": str(number)}}}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": name},
        "spec": {
            "hosts": ["*"],
            "gateways": ["edge"],
            "http": [{"route": [{"destination": destination}], "headers": headers}],
        },
    }


@dataclass(frozen=True)
class Rig:
    here: World
    reader: Prometheus
    busy: asyncio.Task[None]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = tmp_path_factory.mktemp("plane")
    async with world(folder) as here:
        config = CONFIG % (
            scraper_token(here.mesh.token),
            here.mesh.settings.debug,
        )
        async with prometheus(_made(folder / "prometheus"), config) as reader:
            busy = asyncio.create_task(_change(here))
            yield Rig(here, reader, busy)
            busy.cancel()


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _change(here: World) -> None:
    """Routes that change, and such that are refused."""
    for number in count():
        changed = routes("shop", number)
        code, made = await here.mesh.ask("PUT", f"{ROUTES}/shop", **changed)
        assert code == 200, made
        wrong = routes("other", number) | {"spec": {"hosts": []}}
        code, made = await here.mesh.ask("POST", ROUTES, **wrong)
        assert code == 422, made
        await asyncio.sleep(0.3)


async def test_every_query_of_the_board_gives_data(rig: Rig) -> None:
    asked = queries(BOARDS["control-plane.json"], {"__rate_interval": "30s"})
    found = await silent(rig.reader, asked)
    if rig.busy.done():
        rig.busy.result()
    assert found == {}


async def test_what_is_istios_has_its_types_and_buckets(rig: Rig) -> None:
    text = rig.here.mesh.plane.metrics_text()
    lines = text.splitlines()
    types = {
        "counter": "pilot_xds_pushes pilot_push_triggers pilot_inbound_updates"
        " pilot_total_xds_rejects pilot_xds_expired_nonce galley_validation_passed"
        " galley_validation_failed citadel_server_csr_count"
        " citadel_server_success_cert_issuance_count",
        "gauge": "pilot_xds pilot_services pilot_virt_services pilot_info istio_build"
        " citadel_server_root_cert_expiry_timestamp pilot_xds_cds_reject",
        "histogram": "pilot_xds_push_time pilot_xds_send_time pilot_proxy_queue_time"
        " pilot_proxy_convergence_time pilot_xds_config_size_bytes pilot_debounce_time",
    }
    for kind, names in types.items():
        for name in names.split():
            assert f"# TYPE {name} {kind}" in lines, name
    edges = {
        "pilot_proxy_convergence_time_bucket{le": "0.1 0.5 1 3 5 10 20 30 +Inf",
        "pilot_xds_push_time_bucket{le": "0.01 0.1 0.5 1 3 5 10 20 30 +Inf",
        "pilot_xds_config_size_bytes_bucket{le": "1 10000 1e+06 4e+06 1e+07 4e+07 +Inf",
    }
    for name, wanted in edges.items():
        prefix = name.partition("{")[0]
        found = [
            line.partition('le="')[2].partition('"')[0]
            for line in lines
            if line.startswith(prefix)
        ]
        assert found[: len(wanted.split())] == wanted.split()


async def test_counts_follow_what_was_written_and_what_proxies_took(rig: Rig) -> None:
    async def total(query: str) -> float:
        rows = await rig.reader.rows(query)
        return sum(float(row["value"][1]) for row in rows)

    asked = {
        "passed": 'galley_validation_passed{group="networking.istio.io",version="v1",'
        'resource="virtualservices"} > 3',
        "failed": 'galley_validation_failed{resource="virtualservices",'
        'reason="invalid_resource"} > 3',
        "triggers": 'pilot_push_triggers{type="config"} > 3',
        "inbound": 'pilot_inbound_updates{type="config"} > 3',
        "mesh": 'dockermesh_convergence_seconds_count{of="config"} > 3',
        "proxy": "pilot_proxy_convergence_time_count > 3",
        "issued": "citadel_server_success_cert_issuance_count > 0",
    }
    assert await silent(rig.reader, asked) == {}
    # A change that every proxy took is not under way, and took longer than nothing.
    took = await total('dockermesh_convergence_seconds_sum{of="config"}')
    count = await total('dockermesh_convergence_seconds_count{of="config"}')
    assert 0 < took / count < 60
    assert await total("pilot_xds") == 1
