"""What telemetry costs a request: two sidecars with mutual TLS, with the default metrics, with text
logs and 1 % traces, and twice with nothing.

    python bench/telemetry/run.py [--rounds 5] [--seconds 4] [--destinations 50]

What is compared is in bench/README.md. Load comes from `wrk`.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import re
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / f) for f in ("tests/protocol", "tests", "bench")]

import wrk  # noqa: E402
from envoy_binary import envoy_binary  # noqa: E402
from metrics_rig import Meter, db, mesh, web  # noqa: E402
from ports import free_ports  # noqa: E402

from dockermesh.ca import Authority, new_material  # noqa: E402

OFF = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: none, namespace: istio-system}
spec: {metrics: [{overrides: [{disabled: true}]}]}
"""
LOGS = "  accessLogFile: /dev/stdout\n"
TRACES = """
  extensionProviders: [{name: spans, zipkin: {service: localhost, port: %d}}]
  defaultProviders: {tracing: [spans]}
---
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: traced, namespace: istio-system}
spec: {tracing: [{randomSamplingPercentage: 1}]}
"""
MESH_CONFIG = f"{OFF}\n---\nkind: MeshConfig\nspec:\n"
BY_DESTINATION = """
apiVersion: telemetry.istio.io/v1
kind: Telemetry
metadata: {name: many, namespace: istio-system}
spec:
  metrics:
  - overrides:
    - match: {mode: CLIENT}
      tagOverrides: {destination_workload: {value: "request.headers['x-to']"}}
"""
_MANAGER = (
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)


def app(port: int) -> dict[str, Any]:
    """An Envoy that answers at once, with the status that the path names, and takes spans."""
    codes = (200, 201, 204, 302, 400, 404, 429, 500, 502, 503)
    answers = {"/api/v2/spans": 202, **{f"/{code}": code for code in codes}}
    routes = [
        {"match": {"path": path}, "direct_response": {"status": status}}
        for path, status in answers.items()
    ]
    manager = {
        "@type": f"type.googleapis.com/{_MANAGER}",
        "stat_prefix": "app",
        "route_config": {
            "virtual_hosts": [{"name": "a", "domains": ["*"], "routes": routes}]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    listener = {"name": "app", "address": address, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener]}}


class Pair:
    """A client's and a server's sidecar under one config."""

    def __init__(
        self, folder: Path, authority: Authority, backend: int, config: str
    ) -> None:
        served, tcp, self.port = free_ports(3)
        self._logs = [folder / name / "envoy.log" for name in ("web", "db")]
        self.requests = 0
        client, server = web(), db(served, tcp)
        state = mesh(client, server, backend, backend, config=config)
        self.meters = [
            Meter(folder / workload.service, authority, workload, listeners, state)
            for workload, listeners in (
                (client, {"http": (f"0.0.0.0_{served}", self.port)}),
                (server, {"one": ("virtualInbound", served)}),
            )
        ]

    async def load(self, seconds: int) -> tuple[float, float]:
        """Requests a second, and microseconds of both proxies' CPU for each."""
        url = f"http://127.0.0.1:{self.port}/200"
        pids = [meter.pid for meter in self.meters]
        found = await wrk.load(url, "db", pids, connections=16, seconds=seconds)
        self.requests += found.count
        return found.rate, found.cpu

    async def told(self) -> dict[str, float]:
        """How many lines of logs and how many spans there are for each request."""
        lines = sum(text.read_bytes().count(b" HTTP/") for text in self._logs)
        spans = [
            value
            for meter in self.meters
            for name, _, value in await meter.series("envoy_tracing_zipkin_spans_sent")
        ]
        return {
            "lines": round(lines / self.requests, 2),
            "spans": round(sum(spans) / self.requests, 3),
        }


def _memory(pid: int) -> float:
    """Anonymous memory in MB."""
    text = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+)", text)
    assert found
    return int(found[1]) / 1000


async def many(pair: Pair, destinations: int) -> dict[str, float]:
    """What the client's proxy grows by when it has called so many destinations with ten codes."""
    meter = pair.meters[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", pair.port)

    async def ask(to: str, code: int) -> None:
        head = f"GET /{code} HTTP/1.1\r\nHost: db\r\nx-to: {to}\r\n\r\n"
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")

    for _ in range(200):
        await ask("warm", 204)
    before = _memory(meter.pid)
    for number in range(destinations):
        for code in (200, 201, 204, 302, 400, 404, 429, 500, 502, 503):
            await ask(f"destination-{number}", code)
    # Before they are read: the text alone is as large again, and its memory is kept.
    grown = round(_memory(meter.pid) - before, 1)
    rows = await meter.series("istio_")
    writer.close()
    return {"series": len(rows), "megabytes": grown}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--destinations", type=int, default=50)
    asked = parser.parse_args()
    wrk.require()
    authority = Authority(
        new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    )
    (backend,) = free_ports(1)
    variants = {
        "off": OFF,
        "metrics": "",
        "logs": MESH_CONFIG + LOGS,
        "traces": MESH_CONFIG + TRACES % backend,
        "logs and traces": MESH_CONFIG + LOGS + TRACES % backend,
        "off again": OFF,
    }
    got: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "app.json").write_text(json.dumps(app(backend)))
        command = (envoy_binary(), "-c", str(folder / "app.json"), "-l", "error")
        server = await asyncio.create_subprocess_exec(
            *command, "--use-dynamic-base-id", "--concurrency", "1"
        )
        stack.callback(server.kill)
        pairs = {}
        for name, config in {**variants, "many": BY_DESTINATION}.items():
            pair = Pair(folder / name.replace(" ", "-"), authority, backend, config)
            for meter in pair.meters:
                await stack.enter_async_context(meter)
            pairs[name] = pair
        for name in variants:
            await pairs[name].load(1)
        for _ in range(asked.rounds):
            for name in variants:
                got[name].append(await pairs[name].load(asked.seconds))
        told = await pairs["logs and traces"].told()
        memory = await many(pairs["many"], asked.destinations)

    def ratio(one: str, other: str, which: int) -> float:
        pairs_of = zip(got[one], got[other], strict=True)
        return round(statistics.median(a[which] / b[which] for a, b in pairs_of), 3)

    found = {
        what: {
            f"{name}/off": ratio(name, "off", which)
            for name in variants
            if name != "off"
        }
        for which, what in enumerate(("requests/s", "cpu"))
    } | {
        "cpu us per request": {
            name: round(statistics.median(cpu for _, cpu in rows), 1)
            for name, rows in got.items()
        },
        "logs and traces, for each request": told,
        f"{asked.destinations} destinations x 10 codes": memory,
    }
    print(json.dumps(found, indent=2))


asyncio.run(main())
