"""`dockermesh logs`: lines read back, told apart, and put in order."""

from __future__ import annotations

import json
import struct
import time
from types import SimpleNamespace
from typing import Any

import pytest
import urllib3
from click.testing import CliRunner

from dockermesh.cli.main import root
from dockermesh.client.logs.access_line import read_access_line
from dockermesh.client.logs.lines import (
    Line,
    Source,
    Wanted,
    make_line,
    nanoseconds,
    parse_codes,
)
from dockermesh.client.logs.reading import Reader, _Waiting
from dockermesh.client.logs.since import parse_since
from dockermesh.client.logs.sources import choose
from dockermesh.docker.container_logs import Stamped, container_lines
from dockermesh.errors import EngineError, InputError, UsageError
from dockermesh.model.contract import LABEL_ROLE, LABEL_SERVICE, LABEL_WORKLOAD
from dockermesh.translate.telemetry.log_formats import DEFAULT_LABELS

ID = "0f2c-1"
HTTP = (
    '[2026-01-31T12:00:00.250Z] "GET /x/1?q=2 HTTP/1.1" 503 UF via_upstream - "-" 0 11 7 6'
    f' "172.1.0.1" "curl "x" 8" "{ID}" "reviews:9080" "10.0.0.1:9080" outbound|9080||r'
    " 127.0.0.1:1 240.240.0.1:9080 172.1.0.2:2 - default"
)
TCP = (
    '[2026-01-31T12:00:00.000Z] "- - -" 0 - - - "-" 5 6 1000 - "-" "-" "-" "-" "10.0.0.2:5432"'
    " inbound|5432|| 127.0.0.6:1 10.0.0.2:5432 10.0.0.3:2 - -"
)
APP = Source("shop/web-1", "app", "a" * 64)
PROXY = Source("shop/web-1", "proxy", "b" * 64)


def test_istios_text_is_read_back() -> None:
    found = read_access_line(HTTP)
    assert found is not None
    assert found.keys() == DEFAULT_LABELS.keys()
    assert (found["response_code"], found["duration"], found["path"]) == (
        503,
        7,
        "/x/1?q=2",
    )
    assert (found["user_agent"], found["request_id"]) == ('curl "x" 8', ID)
    tcp = read_access_line(TCP)
    assert tcp is not None
    assert (tcp["method"], tcp["bytes_sent"], tcp["response_code"]) == (None, 6, 0)


def test_istios_json_is_read_back_and_nothing_else() -> None:
    given = {"start_time": "2026-01-31T12:00:00.250Z", "response_code": 200}
    assert read_access_line(json.dumps(given)) == given
    for text in ('{"a": 1}', "[2026] hello", "{", "", "[" * 5000, "{" * 5000):
        assert read_access_line(text) is None


def test_a_hostile_line_takes_no_time() -> None:
    hostile = HTTP.replace("curl", '" "' * 20000)
    begin = time.process_time()
    read_access_line(hostile[:99_000] + "x")
    assert time.process_time() - begin < 30


def line(source: Source, text: str, at: str = "2026-01-31T12:00:01.000000001Z") -> Line:
    return make_line(source, at, text)


def test_a_request_stands_where_it_began_and_an_outer_hop_before_an_inner_one() -> None:
    outer = line(PROXY, HTTP.replace(" 0 11 7 ", " 0 11 9 "))
    inner = line(Source("shop/a-1", "proxy", "c"), HTTP)
    said = line(APP, "said", "2026-01-31T12:00:00.250000001Z")
    found = sorted([said, inner, outer], key=lambda each: each.order)
    assert found == [outer, inner, said]


def test_an_app_writes_no_access_log() -> None:
    assert line(APP, HTTP).access is None


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Wanted(), {"http", "tcp", "app", "warning"}),
        (Wanted(only_access=True), {"http", "tcp"}),
        (Wanted(codes=parse_codes("4xx,5XX")), {"http"}),
        (Wanted(codes=parse_codes("503")), {"http"}),
        (Wanted(codes=parse_codes("504")), set()),
        (Wanted(path="/x/*"), {"http"}),
        (Wanted(path="/x/1"), {"http"}),
        (Wanted(path="/y*"), set()),
        (Wanted(request_id=ID), {"http", "app"}),
        (Wanted(request_id=ID, only_access=True), {"http"}),
    ],
)
def test_only_what_is_asked_for_is_shown(wanted: Wanted, taken: set[str]) -> None:
    lines = {
        "http": line(PROXY, HTTP),
        "tcp": line(PROXY, TCP),
        "warning": line(PROXY, "[warning] x"),
        "app": line(APP, f"request {ID} failed"),
    }
    assert {name for name, each in lines.items() if wanted.takes(each)} == taken


@pytest.mark.parametrize("text", ["abc", "5xxx", "200-300"])
def test_what_is_no_code_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_codes(text)


def test_times_are_those_of_docker() -> None:
    assert nanoseconds("1970-01-01T00:00:01.5Z") == 1_500_000_000
    assert nanoseconds("1970-01-01T01:00:01+01:00") == 1_000_000_000
    assert nanoseconds("never") == 0
    assert parse_since("1m30s", 100.0) == 10 * 10**9
    assert parse_since("12.5", 100.0) == 12_500_000_000
    assert parse_since("1970-01-01T00:00:02+00:00", 100.0) == 2 * 10**9
    assert parse_since("", 100.0) == 0
    with pytest.raises(UsageError):
        parse_since("soon", 100.0)


class Answer:
    """An answer of the engine."""

    status_code = 200

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.raw = self

    def read(self, size: int) -> bytes:
        part, self._body = self._body[:size], self._body[size:]
        return part

    def iter_content(self, _size: object) -> Any:
        return iter([self._body[:20], self._body[20:]])

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def frame(stream: int, text: str) -> bytes:
    return struct.pack(">BxxxL", stream, len(text)) + text.encode()


class Engine:
    """Containers with their logs, as much as is looked at."""

    base_url, api_version = "http://docker", "1.41"

    def __init__(self, logs: dict[str, bytes], *, tty: bool = False) -> None:
        self.logs, self.tty, self.sdk = logs, tty, self
        self.orders: list[dict[str, Any]] = []

    def inspect(self, container: str) -> dict[str, Any] | None:
        return {"Config": {"Tty": self.tty}} if container in self.logs else None

    def get(self, url: str, params: dict[str, Any], **_: object) -> Answer:
        self.orders.append(params)
        return Answer(self.logs[url.split("/")[-2]])

    def containers(self, _labels: object) -> list[dict[str, Any]]:
        return [
            {
                "Id": f"{name}-{role}",
                "State": "running",
                "Labels": {
                    LABEL_WORKLOAD: f"{project}/{name}",
                    LABEL_ROLE: role,
                    LABEL_SERVICE: name.rpartition("-")[0],
                },
            }
            for project, name in (("shop", "web-1"), ("shop", "web-2"), ("b", "db-1"))
            for role in ("pod", "proxy", "app")
        ]


def test_lines_are_put_together_from_parts_of_two_streams() -> None:
    body = (
        frame(1, "t1 a")
        + frame(2, "t2 b\n")
        + frame(1, "2026-01-31T12:00:00.5Z c\nt3 d\r\n")
        + frame(1, "t4 e")
    )
    engine: Any = Engine({"x": body})
    found = list(container_lines(engine, "x", since="5.000000000", tail="3"))
    assert [(s.time, s.text) for s in found] == [
        ("t2", "b"),
        ("t1", "ac"),
        ("t3", "d"),
        ("t4", "e"),
    ]
    (order,) = engine.orders
    assert (order["since"], order["tail"], order["follow"]) == ("5.000000000", "3", 0)
    terminal: Any = Engine({"x": b"t1 one\r\nt2 two and a half\r\n"}, tty=True)
    assert [s.text for s in container_lines(terminal, "x")] == ["one", "two and a half"]
    assert list(container_lines(engine, "gone")) == []


def test_an_engine_that_goes_away_meanwhile_is_an_error_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(_answer: Answer, _size: int) -> bytes:
        raise urllib3.exceptions.ProtocolError("Connection broken")

    monkeypatch.setattr(Answer, "read", broken)
    engine: Any = Engine({"x": b""})
    with pytest.raises(EngineError, match="Connection broken"):
        list(container_lines(engine, "x", follow=True))


def test_a_name_is_a_workload_or_a_service_with_all_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reported = [{"name": "shop/web-1", "service": "shop-window"}]
    monkeypatch.setattr(
        "dockermesh.client.logs.sources.MeshClient",
        lambda _engine: SimpleNamespace(workloads=lambda: {"workloads": reported}),
    )
    engine: Any = Engine({})

    def found(*names: str, project: str = "") -> list[str]:
        chosen = choose(engine, names, project)
        return [s.container for s in chosen.sources(engine)]

    assert found("web") == ["web-1-app", "web-1-proxy", "web-2-app", "web-2-proxy"]
    assert found("shop/web-2") == ["web-2-app", "web-2-proxy"]
    assert found("db-1", "web-1") == [
        "db-1-app",
        "db-1-proxy",
        "web-1-app",
        "web-1-proxy",
    ]
    # The second replica is not reported yet.
    assert found("shop-window") == found("web") == found("shop/web")
    assert found(project="b") == ["db-1-app", "db-1-proxy"]
    with pytest.raises(InputError, match="is called 'wep'"):
        found("wep")


def test_what_comes_is_given_once_and_after_what_was_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, bool]] = []

    def lines(
        _engine: object, container: str, *, since: str, tail: str, follow: bool
    ) -> Any:
        calls.append((since, follow))
        yield Stamped("2026-01-31T12:00:00.000000005Z", f"{container} old")
        if follow:
            yield Stamped("2026-01-31T12:00:01.000000000Z", f"{container} new")

    monkeypatch.setattr("dockermesh.client.logs.reading.container_lines", lines)
    engine: Any = None
    reader = Reader(engine, Wanted())
    sources = [Source("shop/b-1", "app", "b"), Source("shop/a-1", "app", "a")]
    assert [each.text for each in reader.history(sources)] == ["a old", "b old"]
    coming = reader.follow(lambda: sources)
    assert [next(coming).text, next(coming).text] == ["a new", "b new"]
    assert ("1769860800.000000005", True) in calls


def test_the_command_prints_names_and_no_colour_to_a_pipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs = {
        "web-1-app": frame(1, f"2026-01-31T12:00:00.260Z app {ID}\n"),
        "web-1-proxy": frame(1, f"2026-01-31T12:00:01.000Z {HTTP}\n"),
    }
    monkeypatch.setattr("dockermesh.docker.engine.LocalEngine", lambda: Engine(logs))
    ran = CliRunner().invoke(root, ["logs", "web-1", "--id", ID])
    assert ran.output.splitlines() == [
        f"web-1 proxy | {HTTP}",
        f"web-1       | app {ID}",
    ]
    ran = CliRunner().invoke(root, ["logs", "web-1", "--code", "5xx", "-o", "json"])
    (found,) = map(json.loads, ran.output.splitlines())
    assert found["access"]["request_id"] == ID
    assert (found["time"], found["workload"], found["container"]) == (
        "2026-01-31T12:00:00.250000000Z",
        "shop/web-1",
        "proxy",
    )


def test_long_requests_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(
        "dockermesh.client.logs.reading.time.monotonic", lambda: clock[0]
    )
    waiting = _Waiting()
    waiting.add(line(APP, "now"))
    found: list[str] = []
    for number in range(10):
        clock[0] += 0.1
        at = f"2026-01-31T11:00:0{number}.0Z"
        waiting.add(line(APP, f"old {number}", at))
        found += [each.text for each in waiting.due()]
    assert found[:7] == [*(f"old {n}" for n in range(6)), "now"]
    clock[0] += 1
    found += [each.text for each in waiting.due()]
    assert len(found) == 11
    assert waiting._given == set()
