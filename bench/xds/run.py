"""One endpoint changes: time until the last of N streams has it, and CPU, for several servers side by side.

    python bench/xds/run.py [--sizes 100x100,500x500] [--servers dockermesh,bare,go] [--apis v3-delta,v3]

Servers are alternated within one run, because the machine drifts; compare ratios, not milliseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
LOAD = Path(os.environ.get("ADS_LOAD", HERE / "../../../shared/bench/ads_load.py")).resolve()
GO = HERE.parents[1] / "build" / "bench-xds-go"
COMMANDS = {
    "dockermesh": [sys.executable, str(HERE / "server.py")],
    "bare": [sys.executable, str(HERE / "bare.py")],
    "go": [str(GO)],
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def running(server: str, services: int) -> Iterator[tuple[int, int, int]]:
    """Start a server; its pid and ports."""
    xds, control = free_port(), free_port()
    environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    process = subprocess.Popen([*COMMANDS[server], str(services), str(xds), str(control)], env=environment)
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                http.client.HTTPConnection("127.0.0.1", control, timeout=1).connect()
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{server} does not start")
            time.sleep(0.05)
        yield process.pid, xds, control
    finally:
        process.kill()
        process.wait()


def measure(server: str, services: int, streams: int, api: str, changes: int) -> dict[str, float]:
    with running(server, services) as (pid, xds, control):
        url = f"http://127.0.0.1:{control}/change?op={{op}}&service={{service}}&ip={{ip}}&port={{port}}"
        command = [sys.executable, str(LOAD), "--target", f"127.0.0.1:{xds}", "--api", api, "--streams", str(streams)]
        command += ["--change", "url", "--change-url", url, "--changes", str(changes), "--services", str(services)]
        command += ["--first", "0", "--pause", "0.1", "--quiet", "0.2", "--idle", "3", "--warm", "0.5"]
        done = subprocess.run([*command, "--pid", f"cp={pid}"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{server}: {done.stderr[-2000:]}")
    out = json.loads(done.stdout)
    added = out["summary"]["add"]
    return {
        "last": added["last_stream_ms"]["median"],
        "cpu": added["cpu_s"]["cp"]["mean"] * 1e3,
        "cold": out["cold"]["all_ms"],
        "rss": out["rss_mib_after"]["cp"],
        "idle": out["idle"]["cpu_cores"]["cp"] * 100,
        "idle_messages": out["idle"]["messages"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="100x100,500x500", help="services x streams")
    parser.add_argument("--servers", default="dockermesh,bare" + (",go" if GO.exists() else ""))
    parser.add_argument("--apis", default="v3-delta,v3")
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    columns = ("last", "cpu", "cold", "rss", "idle", "idle_messages")
    print(
        f"{'S x N':>9} {'api':>8} {'server':>10} " + " ".join(f"{c:>13}" for c in columns) + "  (ms, ms, ms, MiB, %, -)"
    )
    for size in args.sizes.split(","):
        services, streams = map(int, size.split("x"))
        for api in args.apis.split(","):
            rows: dict[str, list[dict[str, float]]] = {s: [] for s in args.servers.split(",")}
            for _ in range(args.rounds):
                for server, found in rows.items():
                    found.append(measure(server, services, streams, api, args.changes))
            for server, found in rows.items():
                values = [statistics.median(r[c] for r in found) for c in columns]
                print(f"{size:>9} {api:>8} {server:>10} " + " ".join(f"{v:13.2f}" for v in values), flush=True)


if __name__ == "__main__":
    main()
