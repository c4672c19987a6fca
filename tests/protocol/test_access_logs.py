"""A real Envoy and access logs: what our rules take it takes, what they refuse it refuses, and what
it writes is what Istio writes.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from envoy_binary import envoy_binary
from google.protobuf.json_format import MessageToDict
from patience import until
from policy_rig import (
    Certificates,
    Envoy,
    ask,
    gateway_on,
    gateway_parts,
    serve,
    service,
    sidecar_parts,
)
from ports import free_ports

from dockermesh.config.api.mesh_config import EnvoyFileAccessLogProvider, LogFormat
from dockermesh.config.rules import log_format
from dockermesh.config.rules.cel import check_expression
from dockermesh.model import Protocol
from dockermesh.translate.telemetry.access_logs import _expression, _message
from dockermesh.translate.telemetry.log_formats import format_of_provider
from dockermesh.translate.telemetry.providers import file_logger

pytestmark = pytest.mark.binary
TAKEN = (
    "response.code >= 400",
    "'x-a' in request.headers && !(request.headers['x-a'].matches('^[0-9]+$'))",
    "has(request.headers.x) || connection.mtls ? true : 1 in [1, 2,]",
    "!-1 == -9223372036854775808 // why not",
    "r'\\q' == b'\\x41' || request.time.getHours('UTC') > 0x1F",
    "size(a) + int(b) > 1 && type(a) == dyn(c) && {1: 2,}[1] == 2",
    "duration('1s') < a && timestamp(b) > c && uint(d) > 1u && double(e) > 1.5e3",
    "bytes(a) == b && bool(c) && matches(a, 'b') && contains(a, b)",
    "startsWith(a, b) || endsWith(a, b) || a.startsWith(b) || a.endsWith(b)",
    "a.getFullYear() + a.getMonth() + a.getDate() + a.getDayOfMonth() > 1",
    "a.getDayOfWeek() + a.getDayOfYear() + a.getMinutes() + a.getSeconds() > 1",
    "a.getMilliseconds() > 1 && '\\n\\101\\u0041\\U0001F600' == '''a\nb'''",
    "x" + ".y" * 19,
    "x" + "[1]" * 18,
    " + ".join(["x"] * 20),
    " == ".join(["x"] * 20),
    " in ".join(["x"] * 20),
    "(x.y + " * 6 + "1" + ")" * 6,
    "x[y.z * " * 6 + "1" + "]" * 6,
    "size([x.y - " * 6 + "1" + "])" * 6,
    "x.contains(-y.z % " * 6 + "1" + ")" * 6,
    "{x.y < 1: " * 6 + "1" + "}" * 6,
    "a.b ? c : " * 18 + "d",
    "!(" * 19 + "x" + ")" * 19,
    " && ".join(["x"] * 1000),
    "!" * 200 + "x",
    "(" * 19 + "x" + ")" * 19,
    "[" * 19 + "]" * 19,
    "a ? b : " * 19 + "c",
    "f[" * 9 + "1" + "]" * 9,
    ".5 > 1.5.x && true.x == null",
)
REFUSED = (
    "response.code >",
    "foo(1)",
    "[1].all(x, x > 1)",
    "a.matches('(')",
    "has(a)",
    "!-a",
    "'\\ud800'",
    "9223372036854775808",
    "a - 9223372036854775808",
    "--9223372036854775808",
    "a ? b ? c : d : e",
    "(" * 60 + "x" + ")" * 60,
)
_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def is_taken(*expressions: str, line: str = "x") -> bool:
    """What Envoy says to a logger for each of these conditions."""
    form = format_of_provider(EnvoyFileAccessLogProvider(log_format=LogFormat(line)))
    loggers = [
        _message(file_logger("/dev/null", form), [_expression(e) for e in (text,) if e])
        for text in expressions or ("",)
    ]
    proxy = {
        "@type": _PROXY,
        "stat_prefix": "x",
        "cluster": "c",
        "access_log": [MessageToDict(logger) for logger in loggers],
    }
    chain = {"filters": [{"name": "tcp", "typed_config": proxy}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    listener: dict[str, Any] = {"address": address, "filter_chains": [chain]}
    config = {
        "static_resources": {"listeners": [listener], "clusters": [{"name": "c"}]}
    }
    command = [envoy_binary(), "--mode", "validate", "-l", "critical"]
    more = ["--disable-hot-restart", "--config-yaml", json.dumps(config)]
    ran = subprocess.run([*command, *more], capture_output=True, check=False)
    return ran.returncode == 0


def test_envoy_takes_the_conditions_that_pass() -> None:
    assert [check_expression(text) for text in TAKEN] == [""] * len(TAKEN)
    assert is_taken(*TAKEN)


@pytest.mark.parametrize("text", REFUSED, ids=lambda t: t[:20])
def test_envoy_refuses_the_conditions_that_do_not(text: str) -> None:
    assert check_expression(text)
    assert not is_taken(text)


def every_operator() -> Iterator[str]:
    yield from (f"%{name}%" for name in sorted(log_format._PLAIN))
    for name in sorted(log_format._CUT):
        yield from (f"%{name}(a)%", f"%{name}(:path?X-b_c.d):5%")
    for name, (pattern, _) in log_format._ARGUMENTS.items():
        if pattern == log_format._TIME:
            yield from (f"%{name}%", f"%{name}(%Y-%m-%dT%H:%M:%S.%3f%z %s)%")
        elif pattern == log_format._KEYS:
            yield from (f"%{name}(a)%", f"%{name}(a.b:c:d)%")
    for kind in ("CLUSTER", "ROUTE", "DYNAMIC", "UPSTREAM_HOST", "LISTENER"):
        yield f"%METADATA({kind}:a:b)%"
    for form in ("a.b", "a:PLAIN", "a:TYPED", "a:FIELD:b"):
        yield f"%FILTER_STATE({form})%"
    for form in ("", "(CAMEL_STRING)", "(SNAKE_STRING)", "(NUMBER)"):
        yield f"%GRPC_STATUS{form}%"
    yield from ("%REQUESTED_SERVER_NAME%", "%QUERY_PARAM(a)%", "%ENVIRONMENT(A_b)%")
    yield from (f"%COMMON_DURATION(DS_RX_BEG:A:{unit})%" for unit in ("ms", "us", "ns"))
    yield from ("%CEL(request.headers['a'])%", "100 %%", "é")


def test_envoy_takes_every_operator_that_passes() -> None:
    line = " ".join(every_operator())
    known = {*log_format._PLAIN, *log_format._ARGUMENTS}
    assert set(re.findall(r"%([A-Z][A-Z0-9_]+)", line)) >= known
    assert log_format.check_text(line) == ""
    assert is_taken(line=line)


@pytest.mark.parametrize(
    "line",
    [
        "100%",
        "%NOPE%",
        "%REQ%",
        "%PROTOCOL:3%",
        "%REQ(é)%",
        "%REQ(a:b)%",
        "%RESP(:)%",
        "%REQ(a):٣%",
        "%QUERY_PARAM(\n)%",
        "%CEL(a\n== b)%",
    ],
)
def test_envoy_refuses_formats_that_do_not(line: str) -> None:
    assert log_format.check_text(line)
    assert not is_taken(line=line)


TELEMETRY = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec:
  accessLogging:
    - providers: [{name: envoy}]
      filter: {expression: "request.path.startsWith('/seen') || request.path == ''"}
---
{kind: MeshConfig, spec: {accessLogEncoding: JSON}}
"""
ROUTE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shop}
spec:
  hosts: ["*"]
  gateways: [edge]
  http: [{route: [{destination: {host: shop, port: {number: 80}}}]}]
"""


def test_one_request_has_one_id_in_every_hop(tmp_path: Path) -> None:
    edge, inbound = free_ports(2)
    shop = [service("shop", inbound)]
    proxy = Envoy(
        tmp_path,
        [
            sidecar_parts(
                TELEMETRY,
                {inbound: ("HTTP", serve())},
                shop,
                Certificates(tmp_path),
            ),
            gateway_parts(f"{gateway_on(edge)}{TELEMETRY}---{ROUTE}", shop),
        ],
        [edge, inbound],
    )
    try:
        for path in ("/seen/1", "/hidden", "/seen/2"):
            assert ask(edge, path).status == 200
        log = tmp_path / "envoy.log"

        def lines() -> list[dict[str, Any]]:
            found = (text for text in log.read_text().splitlines() if text[:1] == "{")
            return [json.loads(text) for text in found]

        until(lambda: len(lines()) == 4, "four lines are written", 30)
        paths = sorted(line["path"] for line in lines())
        assert paths == ["/seen/1", "/seen/1", "/seen/2", "/seen/2"]
        ids = {
            path: {e["request_id"] for e in lines() if e["path"] == path}
            for path in paths
        }
        assert [len(found) for found in ids.values()] == [1, 1]
        assert {line["response_code"] for line in lines()} == {200}
    finally:
        proxy.stop()


REMOTE = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: all, namespace: istio-system}
spec: {accessLogging: [{providers: [{name: http}, {name: tcp}, {name: otlp}, {name: gone}]}]}
---
kind: MeshConfig
spec:
  extensionProviders:
    - {name: http, envoyHttpAls: {service: als, port: 80}}
    - {name: tcp, envoyTcpAls: {service: als.service.consul, port: 80, logName: own}}
    - {name: otlp, envoyOtelAls: {service: als, port: 80, logFormat: {text: "is %REQ(:PATH)%"}}}
    - {name: gone, envoyHttpAls: {service: nowhere, port: 80}}
"""
_ALS = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"
_OTLP = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


class Collector(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Takes access logs by both protocols, and keeps what it gets as it came."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    def service(self, call: Any) -> Any:
        method = call.method
        if method == _OTLP:
            return grpc.unary_unary_rpc_method_handler(
                lambda body, _: self.got.append((method, body)) or b""
            )

        def stream(bodies: Iterator[bytes], _: object) -> bytes:
            self.got.extend((method, body) for body in bodies)
            return b""

        return grpc.stream_unary_rpc_method_handler(stream)


def test_collectors_get_every_request_and_one_that_is_not_there_harms_none(
    tmp_path: Path,
) -> None:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(8), handlers=[collector])
    target = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (edge,) = free_ports(1)
    services = [
        service("shop", serve()),
        service("als", target, protocol=Protocol.GRPC),
    ]
    parts = gateway_parts(f"{gateway_on(edge)}{REMOTE}---{ROUTE}", services)
    proxy = Envoy(tmp_path, [parts], [edge])
    try:
        assert ask(edge, "/seen").status == 200
        expected = (
            (_ALS, b"http_envoy_accesslog"),
            (_ALS, b"own"),
            (_OTLP, b"is /seen"),
        )
        until(
            lambda: all(
                any(method == m and text in body for m, body in collector.got)
                for method, text in expected
            ),
            "each collector was told",
            30,
        )
        assert any(m == _ALS and b"/seen" in body for m, body in collector.got)
    finally:
        proxy.stop()
        server.stop(None)
