"""Traces as trees on a terminal."""

from __future__ import annotations

from typing import Any

from dockermesh.client.traces.drawing import draw, duration_text
from dockermesh.client.traces.tree import tree_of


def span(own: int, parent: int = 0, **more: Any) -> dict[str, Any]:
    tags = {
        "http.method": "GET",
        "http.url": f"http://h/{own}",
        "http.status_code": "200",
    }
    made = {
        "traceId": "ab" * 16,
        "id": f"{own:016x}",
        "name": "details.service.consul:9080/*",
        "kind": "SERVER",
        "timestamp": 1_000_000 + own * 1000,
        "duration": 10_000 - own * 1000,
        "tags": tags | more.pop("tags", {}),
        "localEndpoint": {"serviceName": f"s{own}"},
        **more,
    }
    return made | ({"parentId": f"{parent:016x}"} if parent else {})


def test_spans_are_lines_of_a_tree_in_the_order_of_time() -> None:
    spans = [span(1), span(2, 1, kind="CLIENT"), span(3, 2), span(4, 1)]
    tree = tree_of(spans)
    assert [(line.branch, line.service, line.what) for line in tree.lines] == [
        ("", "s1", "GET /1"),
        ("├ ", "s2", "→ details GET /2"),
        ("│ └ ", "s3", "GET /3"),
        ("└ ", "s4", "GET /4"),
    ]
    assert (tree.is_whole, tree.duration, tree.services) == (
        True,
        9000,
        ("s1", "s2", "s3", "s4"),
    )


def test_what_hangs_in_the_air_is_shown_all_the_same() -> None:
    tree = tree_of([span(1), span(3, 2), span(3, 2), span(4, 4)])
    assert len(tree.lines) == 4
    assert not tree.is_whole
    # A circle has no beginning to be shown from, and must not hang.
    assert not tree_of([span(1), span(5, 6), span(6, 5)]).is_whole


def test_a_trace_may_be_deep() -> None:
    spans = [span(1), *(span(n, n - 1, duration=1) for n in range(2, 3000))]
    assert len(tree_of(spans).lines) == 2999


def test_what_a_client_chose_cannot_command_the_terminal() -> None:
    tags = {"http.url": "http://h/\x1b[2J\x9b", "response_flags": "\x07"}
    (line,) = tree_of([span(1, tags=tags)]).lines
    assert line.what == "GET /\ufffd[2J\ufffd"
    assert line.outcome == "200 \ufffd"


def test_each_line_has_its_bar_and_fits() -> None:
    spans = [
        span(1),
        span(2, 1, kind="CLIENT", tags={"http.url": "http://h/" + "x" * 300}),
        span(
            3,
            2,
            tags={"error": "true", "http.status_code": "503", "response_flags": "UF"},
        ),
    ]
    styled: list[tuple[str, str]] = []

    def style(text: str, how: str) -> str:
        styled.append((text, how))
        return text

    lines = [*draw(tree_of(spans), 100, style)]
    assert lines[0].startswith(f"trace {'ab' * 16}  ")
    assert lines[0].endswith("9.0 ms  3 spans of 3 services")
    assert all(len(line) <= 100 for line in lines[1:]), lines
    assert "503 UF" in lines[3]
    assert ("503 UF", "red") in styled
    bars = [line[len(line.rstrip("█▏▎▍▌▋▊▉")) :] for line in lines[1:]]
    assert [len(bar) for bar in bars] == sorted(map(len, bars), reverse=True)


def test_durations_are_short() -> None:
    assert [duration_text(us) for us in (7, 34_210, 1_250_000)] == [
        "7 us",
        "34.2 ms",
        "1.25 s",
    ]
