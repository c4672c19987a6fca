"""`dockermesh limiter` alone, asked by gRPC's own client: files of envoyproxy/ratelimit and all that
may stand in them, and changes of these while it runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from envoy.service.ratelimit.v3 import rls_pb2
from patience import until
from ports import free_ports

from dockermesh.limiter.service import DECIDE, HEALTH

FILE = """
domain: shop
descriptors:
- key: path
  value: /login
  rate_limit: {unit: hour, requests_per_unit: 2}
  descriptors:
  - key: user
    rate_limit: {unit: HOUR, requests_per_unit: 1}
- key: path
  value: /static*
  share_threshold: true
  rate_limit: {unit: day, requests_per_unit: 3}
- key: path
  rate_limit: {unlimited: true}
- key: trial
  shadow_mode: true
  detailed_metric: true
  rate_limit: {unit: minute, requests_per_unit: 1}
- key: closed
  rate_limit: {unit: second, requests_per_unit: 0}
- key: everybody
  rate_limit: {name: everybody, unit: hour, requests_per_unit: 1}
- key: paying
  rate_limit: {unit: hour, requests_per_unit: 100, replaces: [{name: everybody}]}
"""


class Served:
    """A limiter that runs, and its file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.write_text(FILE)
        (port,) = free_ports(1)
        address = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "dockermesh", "limiter", str(file)]
        self.log = file.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--address", address], stderr=log
            )
        self.channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self.channel).result(120)

    def ask(self, *descriptors: dict[str, str], domain: str = "shop") -> str:
        call = self.channel.unary_unary(
            DECIDE,
            rls_pb2.RateLimitRequest.SerializeToString,
            rls_pb2.RateLimitResponse.FromString,
        )
        question = rls_pb2.RateLimitRequest(domain=domain)
        for entries in descriptors:
            made = question.descriptors.add()
            for key, value in entries.items():
                made.entries.add(key=key, value=value)
        answer = call(question, timeout=60)
        assert len(answer.statuses) == len(descriptors)
        return str(rls_pb2.RateLimitResponse.Code.Name(answer.overall_code))

    def passed(self, count: int, *descriptors: dict[str, str]) -> int:
        return [self.ask(*descriptors) for _ in range(count)].count("OK")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("limiter") / "limits.yaml")
    yield made
    made.channel.close()
    made.process.terminate()
    made.process.wait()


def test_values_and_what_follows_them_have_limits_of_their_own(served: Served) -> None:
    assert served.passed(4, {"path": "/login"}) == 2
    assert served.passed(3, {"path": "/login", "user": "ann"}) == 1
    assert served.passed(3, {"path": "/login", "user": "bob"}) == 1
    assert served.passed(20, {"path": "/else"}) == 20
    assert served.passed(20, {"path": "/else", "user": "ann"}) == 20


def test_wildcards_share_and_zero_is_nobody(served: Served) -> None:
    found = [served.ask({"path": f"/static/{n}"}) for n in range(5)]
    assert found.count("OK") == 3
    assert served.passed(3, {"closed": "x"}) == 0


def test_shadow_refuses_nothing_and_one_limit_replaces_another(served: Served) -> None:
    assert served.passed(5, {"trial": "x"}) == 5
    assert served.passed(3, {"everybody": "x"}) == 1
    assert served.passed(9, {"everybody": "x"}, {"paying": "ann"}) == 9


def test_what_is_not_said_is_not_limited(served: Served) -> None:
    assert served.ask({"path": "/login"}, domain="other") == "OK"
    assert served.channel.unary_unary(HEALTH)(b"", timeout=60) == b"\x08\x01"
    with pytest.raises(grpc.RpcError) as refused:
        served.ask(domain="shop")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_change_counts_and_a_mistake_changes_nothing(served: Served) -> None:
    served.file.write_text(FILE.replace("- key: closed", "- key: shut"))
    until(lambda: served.ask({"shut": "x"}) == "OVER_LIMIT", "the change counts", 20)
    assert served.ask({"closed": "x"}) == "OK"
    # What was counted before stays.
    assert served.passed(1, {"path": "/login"}) == 0

    served.file.write_text(FILE.replace("unit: hour", "unit: fortnight"))
    until(lambda: "fortnight" in served.log.read_text(), "the mistake is told", 20)
    assert "line 6" in served.log.read_text()
    assert served.ask({"shut": "x"}) == "OVER_LIMIT"
