"""What Prometheus is told and given, and that its token opens nothing else."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography import x509

from dockermesh.ca import Authority, new_material
from dockermesh.controlplane.debug import make_debug_app
from dockermesh.controlplane.telemetry.scraper import ScraperFiles, scraper_token
from dockermesh.controlplane.telemetry.targets import targets
from dockermesh.model import Catalog, Workload

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
WEB = Workload(
    id="w",
    name="shop/web-v2-1",
    address="172.28.0.9",
    labels={"app": "web", "version": "v2"},
    token_sha256="x",
)


def test_every_attested_proxy_is_a_target_with_its_labels() -> None:
    asleep = Workload(id="a", name="shop/asleep-1", token_sha256="x")
    (group,) = targets([asleep, WEB])
    assert group == {
        "targets": ["172.28.0.9:15090"],
        "labels": {
            "__scheme__": "https",
            "__metrics_path__": "/stats/prometheus",
            "pod": "shop/web-v2-1",
            "namespace": "default",
            "workload": "web-v2",
            "app": "web",
            "version": "v2",
        },
    }


def test_an_ipv6_address_is_told_in_brackets() -> None:
    (group,) = targets([replace(WEB, address="fd00::9")])
    assert group["targets"] == ["[fd00::9]:15090"]


@pytest.mark.asyncio
async def test_its_token_opens_two_pages_alone() -> None:
    view = Mock()
    view.catalog.return_value = Catalog(workloads={WEB.name: WEB})
    view.metrics_text.return_value = "x 1\n"
    app = make_debug_app(view, "the API's")
    async with TestClient(TestServer(app)) as client:
        for token, expected in (
            (scraper_token("the API's"), 401),
            ("the API's", 200),
        ):
            head = {"Authorization": f"Bearer {token}"}
            for path in ("/telemetry/targets", "/metrics"):
                assert (await client.get(path, headers=head)).status == 200
            got = await client.get("/debug/registryz", headers=head)
            assert got.status == expected
        assert (await client.get("/telemetry/targets")).status == 401
        wrong = {"Authorization": "Bearer "}
        assert (await client.get("/metrics", headers=wrong)).status == 401


def test_its_certificate_is_replaced_at_half_of_its_life_and_with_the_ca(
    tmp_path: Path,
) -> None:
    authority = Authority(new_material("cluster.local", NOW))
    files = ScraperFiles(tmp_path, authority, lambda: "cluster.local", "t")

    def pair(after: datetime.timedelta) -> bytes:
        files.renew(NOW + after)
        return (tmp_path / "prometheus.pem").read_bytes()

    first = pair(datetime.timedelta())
    assert pair(datetime.timedelta(minutes=1)) == first
    names = x509.load_pem_x509_certificate(first).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert names.value.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://cluster.local/ns/istio-system/sa/dockermesh-prometheus"
    ]
    assert b"PRIVATE KEY" in first
    second = pair(datetime.timedelta(hours=13))
    assert second != first
    authority.install(new_material("cluster.local", NOW))
    assert pair(datetime.timedelta(hours=13)) != second
    assert (tmp_path / "root.pem").read_bytes() == authority.roots_pem
    assert (tmp_path / "token").read_text() == "t"
