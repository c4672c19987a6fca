"""What `dockermesh top` costs the control plane: N workloads, each with 15 callers and 15 whom it
calls, and a page of metrics over TLS on a connection of its own that stays open.

The pages are served by another process. Two ways side by side, each in a process of its own: the
counts of all in each round and durations in turn, and whole pages in each round, as it was before.
Prints JSON: the CPU seconds of a round, the seconds between rounds (how old counts are), how long
durations take to come round, the share of a core while somebody looks all the time, the
memory, and the share while nobody looks.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import resource
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

from aiohttp import web
from pages import page

from dockermesh.ca.authority import Authority
from dockermesh.ca.material import from_json, new_material, to_json
from dockermesh.controlplane.traffic.looking import Looking
from dockermesh.controlplane.traffic.page import WHOLE
from dockermesh.controlplane.trust.check_tls import CheckTls
from dockermesh.model import Identity, Workload

PORT = 15990
_TURN_S = 5.0
"""Each page changes as often as Envoy merges its histograms."""


def serve(workloads: int, pair: str) -> None:
    """All proxies' pages, told apart by the address that was asked."""
    pages: dict[tuple[int, int, str], str] = {}

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        *_, high, low = request.transport.get_extra_info("sockname")[0].split(".")
        own, turn = int(high) * 256 + int(low), int(time.time() / _TURN_S) % 1000
        wanted = request.query.get("filter", "")
        key = (own, turn, wanted)
        if key not in pages:
            if len(pages) > 4 * workloads:
                pages.clear()
            pages[key] = page(own, workloads, turn, wanted)
        return web.Response(text=pages[key])

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/stats/prometheus", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        await web.TCPSite(
            runner, "0.0.0.0", PORT, ssl_context=context, backlog=1024
        ).start()
        await asyncio.Event().wait()

    asyncio.run(run())


class Whole(Looking):
    """Asks for whole pages in each round."""

    async def _ask_parts(
        self, asked: Mapping[str, str], spent: float
    ) -> tuple[list[str], float]:
        del spent
        return await self._ask(asked, f"({WHOLE})", self._totals.take), 0.0


def wait_for_server() -> None:
    """Until it takes connections."""
    end = time.monotonic() + 120
    while True:
        try:
            socket.create_connection(("127.0.0.1", PORT), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


async def measure(
    workloads: int, rounds: int, authority: Authority, kind: type[Looking]
) -> dict[str, object]:
    """Look for some rounds, then look away."""
    listed = {
        f"shop/service-{n}-1": Workload(
            id=str(n),
            name=f"shop/service-{n}-1",
            service=f"service-{n}",
            address=f"127.1.{n // 256}.{n % 256}",
            token_sha256="x",
        )
        for n in range(workloads)
    }
    tls = CheckTls(lambda: authority, lambda: "cluster.local").context
    looking = kind(lambda: listed, tls, PORT)
    before = _memory()
    first = await looking.look()
    start, spent, done, last = time.monotonic(), time.process_time(), 0, first["at"]
    cost: list[float] = []
    while done < rounds:
        at, cpu = time.monotonic(), time.process_time()
        report = await looking.look()
        if report["at"] == last:
            await asyncio.sleep(1)
            continue
        last, done = report["at"], done + 1
        json.dumps(report)
        cost.append(time.process_time() - cpu)
        print(
            f"round {done}: {cost[-1]:.2f} s CPU, {time.monotonic() - at:.2f} s",
            file=sys.stderr,
        )
    seconds, cpu_s = time.monotonic() - start, time.process_time() - spent
    grown = _memory() - before
    await looking.close()
    idle = time.process_time()
    await asyncio.sleep(5)
    return {
        "workloads": workloads,
        "edges": len(report["edges"]),
        "silent": len(report["silent"]) + report["more_silent"],
        "round_cpu_s": round(sorted(cost)[len(cost) // 2], 2),
        "seconds_between_rounds": round(seconds / rounds, 1),
        "durations_s": report.get("durations_s", round(seconds / rounds, 1)),
        "share_of_a_core": round(cpu_s / seconds, 3),
        "memory_mb": round(grown / 1024, 1),
        "share_while_nobody_looks": round((time.process_time() - idle) / 5, 4),
    }


def run(
    workloads: int, rounds: int, material: bytes, kind: type[Looking]
) -> dict[str, object]:
    """In a process of its own, whose memory it is."""
    authority = Authority(from_json(material))
    return asyncio.run(measure(workloads, rounds, authority, kind))


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    material = new_material("cluster.local", datetime.datetime.now(datetime.UTC))
    authority = Authority(material)
    leaf = authority.issue_workload(Identity("cluster.local", "default", "web"))
    with tempfile.TemporaryDirectory() as folder:
        pair = Path(folder) / "pair.pem"
        pair.write_bytes(leaf.certificate + leaf.key)
        server = get_context("spawn").Process(
            target=serve, args=(given.workloads, str(pair)), daemon=True
        )
        server.start()
        wait_for_server()
        try:
            found = {}
            for name, kind in (("in turn", Looking), ("whole", Whole)):
                print(name, file=sys.stderr)
                with get_context("spawn").Pool(1) as pool:
                    arguments = (given.workloads, given.rounds, to_json(material), kind)
                    found[name] = pool.apply(run, arguments)
            print(json.dumps(found, indent=2))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
