"""When a proxy has no room for more metrics, by its page, and what is told of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest

from dockermesh.controlplane.traffic.room import Room, RoomKeeper, read_room
from dockermesh.model import Workload
from dockermesh.translate.telemetry.metrics import MOST_COUNTERS, MOST_HISTOGRAM_SETS


def page(users: int, codes: int, requests: int) -> str:
    def lines() -> Iterator[str]:
        yield f'dockermesh_requests_total{{reporter="source"}} {requests}'
        for user in range(users):
            for code in range(codes):
                labels = (
                    f'reporter="source",response_code="{code}",source_workload="web",'
                    f'destination_service="db",user="{user}"'
                )
                yield f"istio_requests_total{{{labels}}} 2"

    return "\n".join(lines())


def test_a_page_is_counted() -> None:
    assert read_room(page(10, 3, 100)) == Room(30, 3, 100, 40)
    assert read_room("") == Room()
    assert read_room("istio_requests_total{} many\n") == Room(1, 1, 0, 0)


def test_fewer_requests_in_all_than_were_counted_is_none_that_is_not() -> None:
    assert read_room(page(10, 3, 0)).uncounted == 0


@pytest.mark.parametrize(
    ("users", "codes", "is_full"),
    [
        (MOST_COUNTERS, 1, True),
        (MOST_COUNTERS - 1, 1, False),
        (1, MOST_HISTOGRAM_SETS, True),
        (1, MOST_HISTOGRAM_SETS - 1, False),
    ],
)
def test_counters_and_histograms_have_bounds(
    users: int, codes: int, is_full: bool
) -> None:
    assert read_room(page(users, codes, 1)).is_full is is_full


def test_what_is_told_says_what_is_lost_and_stays_short() -> None:
    workloads = {f"shop/web-{n}": Workload(f"{n}", f"shop/web-{n}") for n in range(30)}
    keeper = RoomKeeper(lambda: workloads, ssl.create_default_context)
    keeper.full = {name: Room(MOST_COUNTERS, 5, 900, 100) for name in workloads}
    keeper.full["shop/gone-1"] = Room(MOST_COUNTERS, 5, 900, 100)
    told = [*keeper.warnings()]
    assert len(told) == 21
    assert told[-1].startswith("10 more proxies")
    assert "100 of 900 requests are in none" in told[0]
    assert "durations" in Room(5, MOST_HISTOGRAM_SETS, 900, 0).sentence("shop/web-1")
