"""How long changes take until proxies have what follows."""

from __future__ import annotations

from dockermesh.runtime.histogram import Histogram
from dockermesh.xds import CLUSTER
from dockermesh.xds.timings import Progress, Timings


def test_a_histogram_counts_up_to_each_edge_and_names_edges_as_go_does() -> None:
    histogram = Histogram((0.1, 1, 10_000, 1_000_000))
    for value in (0.1, 0.5, 2_000_000, 5):
        histogram.add(value)
    assert histogram.buckets() == [
        ("0.1", 1),
        ("1", 2),
        ("10000", 3),
        ("1e+06", 3),
        ("+Inf", 4),
    ]
    assert (histogram.count, histogram.total) == (4, 2_000_005.6)


def test_a_proxy_converges_from_the_first_change_to_its_last_response() -> None:
    timings = Timings()
    progress = Progress(timings)
    progress.tell(10.0, 10.2)
    progress.plan(10.3)
    progress.wrote(CLUSTER, 500, 10.4, 10.5)
    progress.tell(10.6, 10.6)
    progress.plan(10.7)
    progress.wrote(CLUSTER, 20_000, 10.8, 11.0)
    progress.settled()
    assert (timings.proxy.count, timings.proxy.total) == (1, 1.0)
    assert timings.queue.count == 2
    assert dict(timings.size[CLUSTER].buckets())["10000"] == 1
    assert round(timings.push[CLUSTER].total, 6) == 0.5
    assert round(timings.send.total, 6) == 0.3


def test_who_was_sent_nothing_had_nothing_to_wait_for() -> None:
    timings = Timings()
    progress = Progress(timings)
    progress.tell(10.0, 10.0)
    progress.plan(10.0)
    progress.settled()
    assert timings.proxy.count == 0


def test_changes_are_under_way_until_all_proxies_took_them() -> None:
    timings = Timings()
    timings.begin({"registry": 1.0})
    timings.begin({"registry": 3.0, "config": 2.0})
    assert timings.waits_since == 1.0
    timings.all_taken(5.0)
    assert timings.waits_since is None
    assert (timings.mesh["registry"].count, timings.mesh["registry"].total) == (2, 6.0)
    assert (timings.mesh["config"].count, timings.mesh["config"].total) == (1, 3.0)


def test_a_proxy_that_never_takes_anything_costs_bounded_memory() -> None:
    timings = Timings()
    for number in range(5000):
        timings.begin({"config": float(number)})
    timings.all_taken(5000.0)
    assert timings.mesh["config"].count == 1024
