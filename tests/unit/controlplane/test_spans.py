"""Spans that a control plane takes: what is one, how many are kept, and which are found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dockermesh.controlplane.spans.query import Wanted, find_traces, wanted_of
from dockermesh.controlplane.spans.rate import Rate
from dockermesh.controlplane.spans.ring import SpanRing
from dockermesh.controlplane.spans.zipkin import NotSpans, read_spans


def span(number: int, **more: Any) -> dict[str, Any]:
    return {
        "traceId": f"{number:032x}",
        "id": f"{number:016x}",
        "name": "x",
        "timestamp": 1_000_000 + number,
        "duration": 5,
        "tags": {},
        **more,
    }


def read(*entries: Any) -> tuple[list[dict[str, Any]], int]:
    return read_spans(json.dumps(entries).encode())


def test_of_a_span_the_known_fields_are_kept_at_bounded_length() -> None:
    given = span(
        1,
        name="n" * 5000,
        kind="SERVER",
        parentId=f"{2:016x}",
        tags={"a": "b", "c": 1, "": "x", "long": "v" * 5000, "bad": "\ud800"},
        localEndpoint={"serviceName": "web", "ipv4": "1.2.3.4", "port": 80, "x": 1},
        remoteEndpoint={"port": 99999},
        annotations=[1],
        anything={"deep": [[]]},
    )
    ((kept,), malformed) = read(given)
    assert malformed == 0
    assert len(kept["name"]) == len(kept["tags"]["long"]) == 1024
    assert kept["tags"].keys() == {"a", "long", "bad"}
    assert kept["localEndpoint"] == {
        "serviceName": "web",
        "ipv4": "1.2.3.4",
        "port": 80,
    }
    assert not kept.keys() & {"annotations", "anything", "remoteEndpoint"}
    json.dumps(kept, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "entry",
    [
        1,
        None,
        {},
        span(1, traceId="x" * 32),
        span(1, traceId="ab"),
        span(1, id=7),
        span(1, timestamp=True),
        span(1, timestamp=-1),
        span(1, timestamp=1.5),
        span(1, duration=1 << 70),
    ],
)
def test_what_is_no_span_is_counted(entry: Any) -> None:
    spans, malformed = read(entry, span(2))
    assert ([s["id"] for s in spans], malformed) == ([f"{2:016x}"], 1)


@pytest.mark.parametrize("body", [b"", b"{", b"{}", b"[" * 100_000, b"\xff\xfe\x00"])
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(NotSpans):
        read_spans(body)


def test_one_sender_has_a_quarter_and_pushes_out_its_own() -> None:
    ring = SpanRing(most_spans=100)
    ring.add("quiet", span(1))
    for number in range(2, 1000):
        ring.add("loud", span(number))
    kept = [json.loads(text)["traceId"] for text in ring.texts()]
    assert len(kept) == ring.spans == 26
    assert f"{1:032x}" in kept
    assert f"{999:032x}" in kept
    assert ring.dropped == 999 - 26


def test_of_many_senders_the_oldest_spans_go_first() -> None:
    ring = SpanRing(most_spans=64)
    for number in range(200):
        ring.add(f"sender-{number % 50}", span(number))
    kept = sorted(int(json.loads(text)["traceId"], 16) for text in ring.texts())
    assert kept == [*range(200 - len(kept), 200)]
    assert 60 <= len(kept) == ring.spans <= 64


def test_bytes_are_bounded_too() -> None:
    ring = SpanRing(most_spans=10_000, most_bytes=100_000)
    for number in range(2000):
        ring.add(f"sender-{number % 7}", span(number, name="n" * 500))
        assert ring.size <= 100_000
    assert ring.size == sum(len(text) + 256 for text in ring.texts())


def test_who_sends_too_much_does_not_take_what_is_the_others() -> None:
    now = [0.0]
    rate = Rate(10, 20, 100, clock=lambda: now[0])
    assert rate.take("loud", 1000) == 20
    assert rate.is_spent("loud")
    assert not rate.is_spent("quiet")
    assert rate.take("quiet", 5) == 5
    now[0] += 1
    assert rate.take("loud", 1000) == 10
    # All together have a bound as well.
    taken = sum(rate.take(f"s{number}", 20) for number in range(100))
    assert taken <= 100
    assert rate.is_spent("quiet")


def found(*spans: dict[str, Any], **wanted: Any) -> list[str]:
    texts = [json.dumps(one).encode() for one in spans]
    return [t[0]["traceId"][-1] for t in find_traces(texts, Wanted(**wanted))]


def test_traces_are_found_by_what_one_asks() -> None:
    spans = (
        span(1, tags={"istio.canonical_service": "web", "error": "true"}),
        span(2, duration=9000, localEndpoint={"serviceName": "db"}),
        span(3, tags={"guid:x-request-id": "abc"}),
        span(4),
    )
    assert found(*reversed(spans)) == ["1", "2", "3", "4"]
    assert found(*spans, last=2) == ["3", "4"]
    assert found(*spans, has_errors=True) == ["1"]
    assert found(*spans, slow_us=9000) == ["2"]
    assert found(*spans, service="web") == ["1"]
    assert found(*spans, service="db") == ["2"]
    assert found(*spans, id="abc") == ["3"]
    assert found(*spans, id=f"{4:032x}") == ["4"]
    assert found(*spans, id=f"{4:016x}") == ["4"]
    assert found(span(5), span(5, traceId=f"{5:016x}", id=f"{9:016x}")) == ["5"]


def test_a_query_is_read_or_refused() -> None:
    query = {"last": "99999", "id": "AB", "slow_us": "7", "errors": "1"}
    assert wanted_of(query) == Wanted(1000, "ab", "", 7, True)
    with pytest.raises(ValueError, match="x"):
        wanted_of({"last": "x"})
