"""Spans of a real Envoy, from its control plane's word to the tree that a user sees; and what is
not taken from whom.
"""

from __future__ import annotations

import asyncio
import http.server
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bridge_rig import eventually
from gateway_rig import ALL, TELEMETRY, world
from policy_rig import serve

from dockermesh.client.traces.tree import tree_of
from dockermesh.http.credentials import load_leaf

pytestmark = [pytest.mark.consul, pytest.mark.binary]


async def test_a_request_is_a_tree_with_istios_names_and_joins_its_clients_trace(
    tmp_path: Path,
) -> None:
    async with world(tmp_path, f"---{TELEMETRY % ALL}") as here:
        spans = await here.trace("/a?b=1", ("x-who", "me"))
        server, client = spans
        assert (server["kind"], client["kind"]) == ("SERVER", "CLIENT")
        assert client["parentId"] == server["id"]
        tags = server["tags"]
        assert {name: tags[name] for name in tags if name.startswith("istio.")} == {
            "istio.canonical_service": "gateway",
            "istio.canonical_revision": "v7",
            "istio.namespace": "istio-system",
            "istio.mesh_id": "unknown",
            "istio.cluster_id": "Kubernetes",
        }
        assert server["name"] == "shop.example.com:80/*"
        assert (tags["who"], tags["http.status_code"]) == ("me", "200")
        own = "spiffe://cluster.local/ns/istio-system/sa/gateway"
        assert server["identity"].startswith(own)
        assert server["localEndpoint"]["serviceName"] == "gateway"
        lines = [(line.branch, line.what) for line in tree_of(spans).lines]
        assert lines == [("", "GET /a?b=1"), ("└ ", "→ shop")]

        trace, parent = secrets.token_hex(16), secrets.token_hex(8)
        spans = await here.trace("/b", ("traceparent", f"00-{trace}-{parent}-01"))
        assert {span["traceId"] for span in spans} == {trace}
        assert spans[0]["parentId"] == parent
        answer = await here.ask(
            "/c",
            ("x-b3-traceid", trace),
            ("x-b3-spanid", parent),
            ("x-b3-sampled", "1"),
        )
        assert answer.header("x-b3-traceid") == trace
        assert str(answer.header("traceparent")).startswith(f"00-{trace}-")


async def test_without_a_word_one_request_of_a_hundred_is_traced_or_who_asks_for_it(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        for _ in range(100):
            await here.ask("/")
        spans = await here.trace("/asked", ("x-b3-sampled", "1"))
        assert len(spans) == 2
        assert (await here.traces())["collector"]["spans"] <= 30


async def test_tracing_comes_and_goes_without_a_refusal(tmp_path: Path) -> None:
    off = "\n---\n{kind: MeshConfig, spec: {enableTracing: false}}\n"
    async with world(tmp_path, off) as here:
        assert not await here.is_traced()
        await here.apply(TELEMETRY % ALL)
        await eventually(here.is_traced, 10)
        assert await here.trace("/on")

        async def is_untraced() -> bool:
            return not await here.is_traced()

        await here.apply(TELEMETRY % "{disableSpanReporting: true}")
        await eventually(is_untraced, 10)


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes whatever is sent to it."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = b"".join(self._chunks())
        headers = {name.lower(): value for name, value in self.headers.items()}
        type(self).seen.append((self.path, headers, body))
        self.send_response(202)
        self.send_header("content-length", "0")
        self.end_headers()

    def _chunks(self) -> Iterator[bytes]:
        if length := self.headers.get("content-length"):
            yield self.rfile.read(int(length))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


def collector() -> tuple[type[Collector], int]:
    own = type("Own", (Collector,), {"seen": []})
    return own, serve(own)


MESH = """
---
kind: MeshConfig
spec:
  extensionProviders:
  - name: inside
    zipkin: {service: zipkin.example.com, port: 9411, path: /z, headers: [{name: x-key, value: k}]}
  - name: outside
    zipkin: {service: localhost, port: %d, maxTagLength: 8}
  - name: otlp
    opentelemetry: {service: zipkin.example.com, port: 9411, http: {path: v1/traces}}
  - name: nobody
    zipkin: {service: nobody.example.com, port: 1}
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: zipkin, namespace: default}
spec:
  hosts: [zipkin.example.com]
  resolution: STATIC
  ports: [{number: 9411, name: http, protocol: HTTP, targetPort: %d}]
  endpoints: [{address: 127.0.0.1}]
"""


async def test_spans_go_to_the_collectors_that_providers_name(tmp_path: Path) -> None:
    inside, in_port = collector()
    outside, out_port = collector()
    async with world(tmp_path, MESH % out_port) as here:
        # Named before there is such a service, and all of it made in one moment.
        await here.apply(
            TELEMETRY % "{randomSamplingPercentage: 100, providers: [{name: inside}]}"
        )
        assert (await here.ask("/early")).status == 200
        await here.apply(ENTRY % in_port)

        def has(kind: type[Collector], path: str, word: bytes) -> Callable[[], bool]:
            return lambda: any(p == path and word in b for p, _, b in kind.seen)

        async def reaches(
            kind: type[Collector], path: str, name: str, word: bytes
        ) -> None:
            async def is_there() -> bool:
                assert (await here.ask(f"/{name}-of-a-long-name")).status == 200
                return has(kind, path, word)()

            await eventually(is_there, 30)

        await reaches(inside, "/z", "inside", b"/inside-of-a-long-name")
        assert inside.seen[-1][1]["x-key"] == "k"

        every = "{randomSamplingPercentage: 100, providers: [{name: %s}]}"
        await here.apply(TELEMETRY % every % "outside")
        await reaches(outside, "/api/v2/spans", "outside", b"/outside")
        assert not has(outside, "/api/v2/spans", b"/outside-of")()
        await here.apply(TELEMETRY % every % "otlp")
        await reaches(inside, "/v1/traces", "otlp", b"gateway.istio-system")
        await here.apply(TELEMETRY % every % "nobody")
        assert (await here.ask("/still")).status == 200


def span(number: int, **more: Any) -> dict[str, Any]:
    return {
        "traceId": f"{number:032x}",
        "id": f"{number:016x}",
        "name": "x",
        "timestamp": 1_700_000_000_000_000 + number,
        "duration": 5,
        "tags": {"component": "proxy"},
        **more,
    }


async def test_the_port_is_for_members_alone_and_takes_nothing_that_is_no_span(
    tmp_path: Path,
) -> None:
    async with world(tmp_path) as here:
        assert await here.post([span(1)], None) == 0
        assert await here.post([span(1)], here.outsider()) == 0
        foreign = here.outsider()
        load_leaf(foreign, here.authority.issue_server(["localhost"]))
        assert await here.post([span(1)], foreign) in {0, 403}
        assert (await here.traces(id=f"{1:032x}"))["traces"] == []

        member = here.member()
        assert await here.post([span(2)], member) == 202
        assert await here.post(b"[" * 100_000, member) == 400
        assert await here.post(b"{}", member) == 400
        assert await here.post(b"x" * (2 << 20), member) in {0, 413}
        bad = [1, {}, span(3, id="../.."), span(4, timestamp=-1), span(5, duration="1")]
        assert await here.post(bad, member) == 202
        report = await here.traces()
        assert report["collector"]["malformed"] == len(bad) + 2
        assert [t[0]["traceId"] for t in report["traces"]] == [f"{2:032x}"]


async def test_a_flood_pushes_out_nobody_elses_spans_and_stays_in_its_bounds(
    tmp_path: Path,
) -> None:
    # The gateway's own requests, some of which are traced, would be among what is counted.
    none = TELEMETRY % "{disableSpanReporting: true}"
    async with world(tmp_path, f"---{none}") as here:
        assert await here.post([span(7)], here.member("quiet")) == 202
        flood = here.member("loud")
        many = [span(1000 + number) for number in range(1000)]
        results: list[int] = []

        async def is_turned_away() -> bool:
            # What comes slowly finds room for another span each time.
            results.extend(
                await asyncio.gather(*(here.post(many, flood) for _ in range(40)))
            )
            return 429 in results

        await eventually(is_turned_away, 20)
        assert set(results) <= {202, 429}
        began = time.monotonic()
        report = await here.traces(last="1000")
        assert time.monotonic() - began < 10
        kept = report["collector"]
        assert kept["spans"] <= kept["most_spans"] // 4 + 1
        assert kept["bytes"] <= kept["most_bytes"]
        assert kept["over_rate"]
        ids = {t[0]["traceId"] for t in (await here.traces(id=f"{7:032x}"))["traces"]}
        assert ids == {f"{7:032x}"}
        # The others are still served.
        assert await here.post([span(8)], here.member("quiet")) == 202
        assert (await here.ask("/")).status == 200
