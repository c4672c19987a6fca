"""Rates, quantiles and pictures of traffic, from two looks."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from dockermesh.cli import graph as graph_command
from dockermesh.cli import top
from dockermesh.client.traffic import drawing, graph
from dockermesh.client.traffic.stats import By, Counts, arranged, lines, read_look
from dockermesh.client.traffic.watching import Watching


def edge(source: str, destination: str, **more: Any) -> dict[str, Any]:
    return {
        "source": source,
        "source_namespace": "default",
        "destination": destination,
        "destination_namespace": "unknown" if destination == "unknown" else "default",
        "service": more.pop("service", f"{destination}.service.consul"),
        **more,
    }


def report(at: float, *edges: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "at": at,
        "proxies": 3,
        "silent": [],
        "more_silent": 0,
        "edges": edges,
        **more,
    }


FIRST = report(
    100.0,
    edge("web", "db", requests=10, failures=1, codes={"200": 9, "500": 1}, secure=10),
)
SECOND = report(
    110.0,
    edge(
        "web",
        "db",
        requests=60,
        failures=6,
        codes={"200": 54, "500": 6},
        secure=30,
        plain=30,
        bounds=["10", "100", "+Inf"],
        times=[25, 50, 50],
    ),
    edge("gateway", "web", requests=20),
    edge("web", "unknown", requests=2, failures=2, service="gone.service.consul"),
    edge("web", "raw", sent=2048, received=0, opened=1),
)


def watching() -> Watching:
    answers = iter([FIRST, SECOND])
    return Watching(lambda: next(answers), 10.0, sleep=lambda _: None)


def test_rates_are_of_what_happened_between_two_looks() -> None:
    found = {
        line.name: line
        for line in lines(read_look(SECOND), read_look(FIRST), By.WORKLOAD)
    }

    db = found["db.default"]
    assert (db.rate, db.success, db.mtls) == (5.0, 0.9, 0.5)
    assert db.recent.codes == {"200": 45, "500": 5}
    assert db.total.requests == 60
    assert found["web.default"].rate == 2.0
    assert found["raw.default"].bytes_rate == 204.8
    assert "unknown" not in "".join(found)


def test_what_never_arrived_is_an_edge_to_the_service() -> None:
    found = lines(read_look(SECOND), read_look(FIRST), By.EDGE)

    assert ("web.default", "gone.service.consul") in {(x.source, x.name) for x in found}


@pytest.mark.parametrize(
    ("share", "expected"), [(0.25, 5.0), (0.5, 10.0), (0.75, 55.0), (0.99, 98.2)]
)
def test_quantiles_are_prometheus(share: float, expected: float) -> None:
    counts = Counts(buckets={"10": 50, "100": 100, "+Inf": 100})

    assert counts.quantile(share) == pytest.approx(expected)


def test_quantiles_of_nothing_and_beyond_the_last_bound() -> None:
    assert Counts().quantile(0.5) is None
    assert Counts(buckets={"10": 0, "+Inf": 0}).quantile(0.5) is None
    assert Counts(buckets={"10": 1, "+Inf": 10}).quantile(0.9) == 10.0


def test_lines_are_sorted_by_what_one_looks_for() -> None:
    found = lines(read_look(SECOND), read_look(FIRST), By.EDGE)

    assert arranged(found, "rps")[0].name == "db.default"
    assert arranged(found, "success")[0].name == "gone.service.consul"
    assert arranged(found, "tcp")[0].name == "raw.default"
    assert [x.name for x in arranged(found, "name", ["gateway"])] == ["web.default"]


def test_a_window_forgets_what_is_older() -> None:
    answers = iter([report(float(at)) for at in range(0, 60, 5)])
    looking = Watching(lambda: next(answers), 10.0)
    for _ in range(12):
        looking.look()

    assert looking.seconds == 10.0


def test_top_prints_json_for_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "watching", lambda _: watching())
    result = CliRunner().invoke(top.command, ["--once", "-o", "json", "--by", "edge"])

    data = json.loads(result.stdout)
    assert data["seconds"] == 10.0
    first = data["lines"][0]
    assert (first["name"], first["requestsPerSecond"]) == ("db.default", 5.0)
    assert first["total"]["codes"] == {"200": 54, "500": 6}


def test_top_without_a_terminal_prints_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "watching", lambda _: watching())
    rows = CliRunner().invoke(top.command, []).stdout.splitlines()

    assert rows[0].split()[:3] == ["WORKLOAD", "SUCCESS", "RPS"]
    assert rows[1].split() == [
        "db.default",
        "90.00%",
        "5.0",
        "10ms",
        "82ms",
        "98ms",
        "-",
        "50%",
        "60",
    ]


@pytest.mark.parametrize("output", ["text", "dot", "svg", "mermaid", "json"])
def test_a_graph_of_each_kind(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_command, "watching", lambda _: watching())
    shown = CliRunner().invoke(graph_command.command, ["-o", output]).stdout

    for name in ("gateway.default", "web.default", "db.default", "gone.service.consul"):
        assert name in shown
    assert "5.0" in shown


def test_text_is_a_tree_of_each_caller() -> None:
    shown = graph.text(
        arranged(lines(read_look(SECOND), read_look(FIRST), By.EDGE), "name")
    )

    assert shown.splitlines()[:2] == [
        "gateway.default",
        "  └─> web.default  2.0/s",
    ]
    assert (
        "  ├─> db.default           5.0/s 10.0% failed p99 98 ms" in shown.splitlines()
    )


def test_a_picture_is_xml_also_of_circles_and_of_nothing() -> None:
    circle = [edge(a, b, requests=1) for a, b in ("ab", "bc", "ca", "aa", "cd")]
    for edges in ([], circle):
        found = lines(read_look(report(1.0, *edges)), None, By.EDGE)
        tree = ET.fromstring(drawing.svg(found))
        names = {text.text for text in tree.iter("{http://www.w3.org/2000/svg}text")}
        assert {f"{e['source']}.default" for e in edges} <= names


def test_names_cannot_break_out_of_a_picture() -> None:
    bad = [edge('<x y="1">', 'a"b]-->', requests=1)]
    found = lines(read_look(report(1.0, *bad)), None, By.EDGE)

    ET.fromstring(drawing.svg(found))
    assert '"a"b' not in graph.mermaid(found)
    assert r'-> "a\"b]-->.default" [' in graph.dot(found)


def test_durations_that_come_in_turn_are_those_of_the_last_turn() -> None:
    first = report(100.0, edge("web", "db", requests=10), durations_s=60.0)
    times = {"bounds": ["10", "+Inf"], "times": [90, 100], "latest": [0, 4]}
    second = report(110.0, edge("web", "db", requests=20, **times), durations_s=60.0)
    (line,) = lines(read_look(second), read_look(first), By.EDGE)
    assert (line.rate, line.recent.buckets) == (1.0, {"10": 0, "+Inf": 4})
    assert read_look(second).durations_s == 60.0
