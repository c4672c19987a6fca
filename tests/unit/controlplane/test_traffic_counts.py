"""What is read of proxies' pages, and that the totals never fall."""

from __future__ import annotations

import ssl
from collections import Counter
from typing import Any

import aiohttp
import pytest

from dockermesh.ca import AuthorityError
from dockermesh.controlplane.traffic import looking
from dockermesh.controlplane.traffic.looking import Looking
from dockermesh.controlplane.traffic.page import (
    COUNTS,
    DURATIONS,
    MOST_EDGES,
    WHOLE,
    read_page,
)
from dockermesh.controlplane.traffic.totals import Totals
from dockermesh.errors import DockermeshError, NotReadyError
from dockermesh.model import Workload

WEB = (
    'source_workload="web",source_workload_namespace="default",destination_workload="db",'
    'destination_workload_namespace="default",destination_service="db.service.consul"'
)


def requests(
    number: int, code: str = "200", side: str = "source", more: str = ""
) -> str:
    policy = "unknown" if side == "source" else "mutual_tls"
    labels = f'reporter="{side}",response_code="{code}",connection_security_policy="{policy}"'
    return f"istio_requests_total{{{labels},{WEB}{more}}} {number}\n"


def durations(*pairs: tuple[str, int]) -> str:
    name = "istio_request_duration_milliseconds"
    lines = [f'{name}_bucket{{reporter="source",{WEB},le="{b}"}} {n}' for b, n in pairs]
    return "\n".join([*lines, f'{name}_sum{{reporter="source",{WEB}}} 12.5', ""])


def only(totals: Totals) -> dict[str, Any]:
    (edge,) = totals.edges()
    return edge


def taken(*pages: str) -> Totals:
    totals = Totals()
    for number, page in enumerate(pages):
        totals.take(f"proxy-{number}", page)
    return totals


def test_requests_are_counted_by_code_and_failures_are_the_servers() -> None:
    page = (
        "# TYPE istio_requests_total counter\n"
        + requests(5)
        + requests(2, "404")
        + requests(1, "503")
        + requests(4, "200", more=',grpc_response_status="14"')
        + requests(3, "200", more=',grpc_response_status="5"')
    )
    edge = only(taken(page))

    assert edge["requests"] == 15
    assert edge["failures"] == 5
    assert edge["codes"] == {"200": 12, "404": 2, "503": 1}


def test_durations_of_all_codes_are_one_histogram() -> None:
    edge = only(
        taken(
            durations(("1", 3), ("+Inf", 4))
            + requests(4)
            + durations(("1", 0), ("+Inf", 2))
        )
    )

    assert (edge["bounds"], edge["times"]) == (("1", "+Inf"), [3, 6])


def test_what_both_sides_report_is_there_once_with_how_it_was_called() -> None:
    edge = only(taken(requests(5), requests(4, side="destination")))

    assert (edge["requests"], edge["secure"]) == (5, 4)


def test_what_only_the_server_reports_counts() -> None:
    assert only(taken(requests(4, side="destination")))["requests"] == 4


def test_a_proxy_that_starts_anew_keeps_what_it_had() -> None:
    totals = taken(requests(5))
    totals.take("proxy-0", requests(2))
    assert only(totals)["requests"] == 7
    totals.take("proxy-0", requests(3))
    assert only(totals)["requests"] == 8
    totals.take("proxy-0", "")
    assert only(totals)["requests"] == 8


def test_a_proxy_that_is_gone_leaves_its_counts() -> None:
    totals = taken(requests(5), requests(6))
    assert only(totals)["requests"] == 11
    totals.keep(["proxy-1"])
    assert only(totals)["requests"] == 11
    totals.take("proxy-1", requests(7))
    assert only(totals)["requests"] == 12


def test_no_page_can_do_harm() -> None:
    names = "".join(
        requests(1).replace('"web"', f'"{n}"') for n in range(MOST_EDGES + 9)
    )
    assert len(read_page(names)) == MOST_EDGES
    long = requests(1).replace("web", "w" * 9999)
    assert all(len(part) <= 256 for key in read_page(long) for part in key)
    for page in (
        "istio_requests_total{",
        "istio_requests_total{} x",
        "istio_request_duration_milliseconds_bucket{x} 1",
        'istio_request_duration_milliseconds_bucket{a="b",le="1"',
        f"istio_requests_total{{{WEB}}} -5\nistio_requests_total{{{WEB}}} 1e999",
        'istio_requests_total{a="\\"",b="} 1"} 3',
        "istio_tcp_sent_bytes_total{=,,} 9" + "9" * 400,
    ):
        list(taken(page).edges())


@pytest.mark.parametrize("error", [NotReadyError("not open yet"), AuthorityError("x")])
async def test_without_a_certificate_to_ask_with_every_proxy_is_silent(
    error: DockermeshError,
) -> None:
    def tls() -> ssl.SSLContext:
        raise error

    web = Workload(id="w", name="shop/web-1", address="127.0.0.1", token_sha256="x")
    mesh = Looking(lambda: {web.name: web}, tls)
    try:
        report = await mesh.look()
    finally:
        await mesh.close()
    assert (report["silent"], report["edges"]) == (["shop/web-1"], [])


class Answering(Looking):
    """Proxies that answer without a network; `asked` is who was asked for what."""

    def __init__(self, proxies: int) -> None:
        found = (
            Workload(id=f"{n}", name=f"shop/web-{n}", address=f"{n}", token_sha256="x")
            for n in range(proxies)
        )
        listed = {workload.name: workload for workload in found}
        super().__init__(lambda: listed, ssl.create_default_context)
        self.asked: list[tuple[str, str]] = []
        self.counted = 1

    async def _page(
        self,
        session: aiohttp.ClientSession,
        address: str,
        tls: ssl.SSLContext,
        wanted: str,
    ) -> str:
        self.asked.append((address, wanted))
        counts = requests(self.counted) if wanted != DURATIONS else ""
        times = durations(("1", self.counted), ("+Inf", self.counted + 1))
        return counts + (times if wanted != COUNTS else "")


async def test_a_large_mesh_is_asked_for_all_counts_and_for_durations_in_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(looking, "_MOST_OPEN", 10)
    monkeypatch.setattr(looking, "_QUICKEST_S", 0.0)
    monkeypatch.setattr(looking, "SHARE", 1e9)
    mesh = Answering(30)
    try:
        first = await mesh.look()
        assert sum(1 for _, wanted in mesh.asked if wanted == COUNTS) == 30
        assert first["edges"][0]["requests"] == 30
        while sum(1 for _, wanted in mesh.asked if wanted == DURATIONS) < 90:
            mesh.counted += 1
            report = await mesh.look()
    finally:
        await mesh.close()
    turns = Counter(name for name, wanted in mesh.asked if wanted == DURATIONS)
    assert len(turns) == 30 and max(turns.values()) - min(turns.values()) <= 1
    (edge,) = report["edges"]
    assert edge["requests"] == 30 * mesh.counted
    assert report["durations_s"] >= 0
    assert 0 < edge["latest"][0] < edge["times"][0]


async def test_a_small_mesh_is_asked_for_whole_pages() -> None:
    mesh = Answering(3)
    try:
        report = await mesh.look()
    finally:
        await mesh.close()
    assert {wanted for _, wanted in mesh.asked} == {WHOLE}
    assert "durations_s" not in report and "latest" not in report["edges"][0]


def test_durations_between_two_pages_are_the_latest() -> None:
    totals = taken(requests(9))
    totals.take_durations("proxy-0", durations(("1", 3), ("+Inf", 4)))
    assert only(totals)["latest"] == [3, 4]
    totals.take_durations("proxy-0", durations(("1", 5), ("+Inf", 9)))
    edge = only(totals)
    assert (edge["latest"], edge["times"], edge["requests"]) == ([2, 5], [5, 9], 9)
    # It has started anew: all that it says is new.
    totals.take_durations("proxy-0", durations(("1", 1), ("+Inf", 2)))
    edge = only(totals)
    assert (edge["latest"], edge["times"]) == ([1, 2], [6, 11])
    totals.take_durations("proxy-0", durations(("1", 1), ("+Inf", 2)))
    assert "latest" not in only(totals)
