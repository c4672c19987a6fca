"""However often something happens, the log has few lines about it."""

from __future__ import annotations

from structlog.testing import capture_logs

from dockermesh.runtime.repeats import INTERVAL_S, Repeats


def test_the_first_is_told_at_once_and_the_others_as_a_number() -> None:
    repeats = Repeats(clock=lambda: 0.0)
    with capture_logs() as logs:
        for _ in range(1000):
            repeats.note("garbage", "10.0.0.1", "TLS")
        assert len(logs) == 1
        repeats.tell()
        repeats.tell()
    assert [line.get("again") for line in logs] == [None, 999]
    assert {(line["peer"], line["reason"]) for line in logs} == {("10.0.0.1", "TLS")}


def test_a_full_interval_is_told_without_being_asked() -> None:
    now = 0.0
    repeats = Repeats(clock=lambda: now)
    with capture_logs() as logs:
        for _ in range(3):
            repeats.note("garbage", "10.0.0.1", "TLS")
        now = INTERVAL_S
        repeats.note("garbage", "10.0.0.1", "TLS")
    assert [line.get("again") for line in logs] == [None, 3]


def test_peers_without_number_are_few_lines() -> None:
    repeats = Repeats(clock=lambda: 0.0)
    with capture_logs() as logs:
        for number in range(10_000):
            repeats.note("garbage", f"peer-{number}", "TLS")
        repeats.tell()
    assert len(logs) == 102
    assert logs[-1]["peer"] == "others"
