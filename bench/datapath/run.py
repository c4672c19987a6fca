"""What a request and a byte cost on their way through two proxies: the mesh as it comes, beside
hand-written Envoys of the same shape and no proxy at all.

    python bench/datapath/run.py [--rounds 5] [--seconds 3] [--connections 1,32]

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
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import minimal

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / f) for f in ("tests/protocol", "tests", "bench")]

import wrk  # noqa: E402
from carried_rig import HTTP1, running  # noqa: E402
from ports import free_ports  # noqa: E402
from tls_rig import Party, Proxy  # noqa: E402

from dockermesh.ca import Authority, new_material  # noqa: E402
from dockermesh.model import Protocol  # noqa: E402

KINDS = {
    "declared": Protocol.HTTP,
    "sniffed": Protocol.AUTO,
    "bytes": Protocol.TCP,
}
LIMITS = {
    "mesh, declared": "minimal, HTTP/2",
    "mesh, sniffed": "minimal, HTTP/2",
    "mesh, HTTP/1.1": "minimal, HTTP/1.1",
    "mesh, bytes": "minimal, bytes",
    "minimal, HTTP/1.1": "minimal, HTTP/2",
}
"""What each is compared with."""


@dataclass(frozen=True)
class Way:
    """A way to the app: a port, the Host to ask for, and the proxies on it."""

    port: int
    host: str
    proxies: Sequence[int] = ()


@dataclass(frozen=True)
class Run:
    """What one load measured: requests a second, microseconds of the proxies' CPU for each, and
    milliseconds until an answer.
    """

    rate: float
    cpu: float
    p50: float
    p99: float


async def load(path: Way, connections: int, seconds: int) -> Run:
    """Closed-loop load."""
    found = await wrk.load(
        f"http://127.0.0.1:{path.port}/",
        path.host,
        path.proxies,
        connections=connections,
        seconds=seconds,
    )
    at_50, at_99 = (_quantile(found.text, percent) for percent in (50, 99))
    return Run(found.rate, found.cpu, at_50, at_99)


def _quantile(text: str, percent: int) -> float:
    """In milliseconds, as wrk prints it."""
    found = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", text)
    assert found, text
    return float(found[1]) * {"us": 0.001, "ms": 1, "s": 1000}[found[2]]


@asynccontextmanager
async def paths(folder: Path, length: int) -> AsyncIterator[dict[str, Way]]:
    """All ways to one app, side by side."""
    now = datetime.datetime.now(datetime.UTC)
    authority = Authority(new_material("cluster.local", now))
    party = Party(folder / "party", authority, "default", "web")
    backend, *ports = free_ports(7)
    found = {"direct": Way(backend, "x")}

    async with AsyncExitStack() as stack:

        async def start(name: str, config: object, port: int) -> int:
            assert isinstance(config, dict)
            proxy = Proxy(folder / f"{name}.json", config, [port])
            return (await stack.enter_async_context(proxy)).pid

        await start("app", minimal.app(backend, length), backend)
        for way in ("HTTP/1.1", "HTTP/2", "bytes"):
            one, two = ports.pop(), ports.pop()
            name = way.replace("/", "")
            pids = (
                await start(f"s{name}", minimal.server(two, backend, party, way), two),
                await start(f"c{name}", minimal.client(one, two, party, way), one),
            )
            found[f"minimal, {way}"] = Way(one, "x", pids)

        ways = {"HTTP/2": "", "HTTP/1.1": HTTP1}
        (folder / "mesh").mkdir()
        rig = running(folder / "mesh", ways=ways, kinds=KINDS, backend=backend)
        world = await stack.enter_async_context(rig)
        for name, way, kind in (
            ("mesh, declared", "HTTP/2", "declared"),
            ("mesh, sniffed", "HTTP/2", "sniffed"),
            ("mesh, HTTP/1.1", "HTTP/1.1", "declared"),
            ("mesh, bytes", "HTTP/2", "bytes"),
        ):
            pids = (world.proxies["server"].pid, world.proxies[way].pid)
            found[name] = Way(world.ports[way, kind], kind, pids)
        yield found


def _ratio(of: Sequence[Run], to: Sequence[Run], what: str) -> float:
    """The median of the ratios of runs that were made one after another."""
    pairs = zip(of, to, strict=True)
    return round(
        statistics.median(getattr(a, what) / getattr(b, what) for a, b in pairs), 3
    )


def _report(got: dict[str, list[Run]]) -> dict[str, object]:
    ratios = {
        f"{name} / {limit}": {
            "cpu": _ratio(got[name], got[limit], "cpu"),
            "requests/s": _ratio(got[name], got[limit], "rate"),
            "p99": _ratio(got[name], got[limit], "p99"),
        }
        for name, limit in LIMITS.items()
    }
    figures = {
        name: {
            "requests/s": round(statistics.median(r.rate for r in runs)),
            "cpu us": round(statistics.median(r.cpu for r in runs), 1),
            "p50 ms": round(statistics.median(r.p50 for r in runs), 3),
            "p99 ms": round(statistics.median(r.p99 for r in runs), 3),
        }
        for name, runs in got.items()
    }
    return {"ratios": ratios, "medians": figures}


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", default="1,32")
    parser.add_argument("--bytes", type=int, default=101)
    asked = parser.parse_args()
    wrk.require()

    report = {}
    with tempfile.TemporaryDirectory() as folder:
        async with paths(Path(folder), asked.bytes) as known:
            for path in known.values():
                await load(path, 32, 1)
            for connections in map(int, asked.connections.split(",")):
                got: dict[str, list[Run]] = {name: [] for name in known}
                for _ in range(asked.rounds):
                    for name, path in known.items():
                        got[name].append(await load(path, connections, asked.seconds))
                report[f"{connections} connections"] = _report(got)
    print(json.dumps(report, indent=2))


asyncio.run(main())
