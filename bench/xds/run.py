"""One endpoint changes: time until the last of N streams has it, and CPU, for several servers side
by side.

    python bench/xds/run.py [--sizes 100x100,500x500] [--servers dockermesh,bare,go,control-plane]
    [--apis v3-delta,v3]

Servers are alternated within one run, because the machine drifts; compare ratios, not milliseconds.
What the servers and the columns are is in bench/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import servers

LOAD = Path(
    os.environ.get("ADS_LOAD", servers.ROOT / "../shared/bench/ads_load.py")
).resolve()
COLUMNS = {
    "last": "ms",
    "cpu": "ms",
    "last/bare": "x",
    "cpu/bare": "x",
    "cold": "ms",
    "rss": "MiB",
    "idle": "% core",
    "idle msgs": "",
}

Row = dict[str, float]


def measure(
    server: str, services: int, streams: int, api: str, args: argparse.Namespace
) -> Row:
    """Start a server, put the load on it, stop it."""
    with servers.running(server, services) as subject:
        command = [
            sys.executable,
            str(LOAD),
            "--target",
            subject.target,
            "--api",
            api,
            "--streams",
            str(streams),
        ]
        command += [
            *subject.change,
            "--changes",
            str(args.changes),
            "--services",
            str(services),
            "--first",
            "0",
        ]
        command += [
            "--pause",
            "0.1",
            "--quiet",
            "0.2",
            "--idle",
            str(args.idle),
            "--warm",
            "0.5",
        ]
        done = subprocess.run(
            [*command, "--pid", f"cp={subject.pid}"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise servers.FailedError(done.stderr[-2000:])
    out = json.loads(done.stdout)
    added = out["summary"]["add"]
    return {
        "last": added["last_stream_ms"]["median"],
        "cpu": added["cpu_s"]["cp"]["mean"] * 1e3,
        "cold": out["cold"]["all_ms"],
        "rss": out["rss_mib_after"]["cp"],
        "idle": out["idle"]["cpu_cores"]["cp"] * 100,
        "idle msgs": out["idle"]["messages"],
    }


def compare(rows: dict[str, list[Row]]) -> dict[str, Row]:
    """The median over the rounds for each server, and how it stands to the bare server's."""
    medians = {
        s: {c: statistics.median(r[c] for r in found) for c in found[0]}
        for s, found in rows.items()
    }
    bare = medians.get("bare")
    for row in medians.values():
        for column in ("last", "cpu"):
            # CPU comes in ticks of 10 ms: a small load may have cost none.
            row[f"{column}/bare"] = (
                row[column] / bare[column] if bare and bare[column] else float("nan")
            )
    return medians


def choose(names: list[str]) -> list[str]:
    """The servers that can be measured here; says which can't."""
    if unknown := set(names) - set(servers.NAMES):
        raise SystemExit(
            f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(servers.NAMES)}"
        )
    chosen = []
    for name in names:
        if reason := servers.unavailable(name):
            print(f"{name} is left out: {reason}", file=sys.stderr)
        else:
            chosen.append(name)
    return chosen


def measure_all(
    chosen: list[str], size: str, api: str, args: argparse.Namespace
) -> tuple[dict[str, list[Row]], bool]:
    """The rows of each server, taken in turn, and whether all of them did their work. One that
    failed has no rows.
    """
    services, streams = map(int, size.split("x"))
    rows: dict[str, list[Row]] = {s: [] for s in chosen}
    for _ in range(args.rounds):
        for server in list(rows):
            try:
                rows[server].append(measure(server, services, streams, api, args))
            except servers.FailedError as error:
                print(f"{server} failed at {size}, {api}: {error}", file=sys.stderr)
                del rows[server]
    return rows, len(rows) == len(chosen)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default="100x100,500x500", help="services x streams")
    parser.add_argument("--servers", default=",".join(servers.NAMES))
    parser.add_argument("--apis", default="v3-delta,v3")
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--idle",
        type=float,
        default=3,
        help="seconds to watch for work when nothing changes",
    )
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if not LOAD.exists():
        raise SystemExit(
            f"no load generator at {LOAD}; say where ads_load.py is: ADS_LOAD=PATH"
        )
    chosen = choose(args.servers.split(","))
    header = " ".join(
        f"{f'{c}, {unit}'.rstrip(', '):>13}" for c, unit in COLUMNS.items()
    )
    print(f"{'S x N':>9} {'api':>8} {'server':>13} {header}", flush=True)
    good = True
    for size in args.sizes.split(","):
        for api in args.apis.split(","):
            rows, complete = measure_all(chosen, size, api, args)
            good = good and complete
            for server, row in compare(rows).items():
                values = " ".join(f"{row[c]:13.2f}" for c in COLUMNS)
                print(f"{size:>9} {api:>8} {server:>13} {values}", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
