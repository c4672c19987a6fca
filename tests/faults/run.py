"""Breaks a running mesh in every way of the list, and tells what its users noticed.

    python tests/faults/run.py                   # all of it: well over an hour
    python tests/faults/run.py --size ci         # most of it, smaller: some two minutes
    python tests/faults/run.py -k consul         # faults whose key or title has this
    python tests/faults/run.py -o json

Exits with 1 if a fault violates what is expected of it. Runs as root, in namespaces of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

# ruff: noqa: E402  # the path comes first
import lab
from catalogue import FAULTS, LEFT_OUT, Fault, Needs, Size, Trial
from mesh import Mesh, mesh


@dataclass(frozen=True, slots=True)
class Row:
    """What came of a fault."""

    fault: str
    title: str
    expects: str
    requests: int
    failures: int
    slowest_s: float
    heal_s: float | None
    seconds: float
    violations: list[str]
    notes: list[str]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", choices=("ci", "full"), default="full")
    parser.add_argument(
        "-k", default="", help="only faults whose key or title has this"
    )
    parser.add_argument("-o", choices=("table", "json"), default="table")
    parser.add_argument(
        "-l", "--list", action="store_true", help="only say what there is"
    )
    return parser.parse_args()


def chosen(size: str, wanted: str) -> list[Fault]:
    """The faults to run; those that share a mesh are neighbours. Who names one gets it at any
    size.
    """
    found = [
        f
        for f in FAULTS
        if (size == "full" or f.in_ci or wanted)
        and wanted.lower() in f"{f.key} {f.title}".lower()
    ]
    order: dict[Needs, int] = {}
    for each in found:
        order.setdefault(each.needs, len(order))
    return sorted(found, key=lambda f: order[f.needs])


async def run_all(faults: list[Fault], size: Size) -> list[Row]:
    """Run them one after the other."""
    rows: list[Row] = []
    for needs, group in groupby(faults, key=lambda f: f.needs):
        left = list(group)
        while left:
            try:
                async with mesh(needs) as running:
                    while left:
                        row = await run_one(left.pop(0), running, size)
                        rows.append(row)
                        say(row)
                        # What is broken for good would make the next ones fail, too.
                        if row.violations:
                            break
            except Exception:
                traceback.print_exc()
                if left:
                    lost = left.pop(0)
                    problem = [f"no mesh to run it on: {sys.exc_info()[1]!r}"]
                    rows.append(
                        Row(
                            lost.key,
                            lost.title,
                            lost.expects,
                            0,
                            0,
                            0,
                            None,
                            0,
                            problem,
                            [],
                        )
                    )
    return rows


async def run_one(fault: Fault, running: Mesh, size: Size) -> Row:
    """Run one, with requests counted from just before it to just after."""
    trial = Trial(running, size)
    try:
        await fault.run(trial)
        await running.traffic.flows()
    except Exception as error:
        traceback.print_exc()
        trial.violations.append(repr(error))
    requests = running.traffic.since(trial.began)
    failures = running.traffic.failures(trial.began)
    if len(failures) > trial.may_fail:
        shown = "; ".join(
            f"{s.route} at {s.begin - trial.began:.1f} s: {s.got}" for s in failures[:3]
        )
        trial.violations.append(f"{len(failures)} requests failed: {shown}")
    if trial.violations:
        trial.notes += await running.evidence(trial.began)
    return Row(
        fault.key,
        fault.title,
        fault.expects,
        len(requests),
        len(failures),
        round(max((s.end - s.begin for s in requests), default=0.0), 2),
        None if trial.heal_s is None else round(trial.heal_s, 1),
        round(time.monotonic() - trial.began, 1),
        trial.violations,
        trial.notes,
    )


def say(row: Row) -> None:
    """One line as soon as it is known."""
    verdict = "VIOLATED" if row.violations else "ok"
    heal = "" if row.heal_s is None else f", healed after {row.heal_s} s"
    print(
        f"{row.fault:5} {row.title}: {verdict}, {row.failures} of {row.requests} failed{heal}"
        f" ({row.seconds} s)",
        *(f"      {line}" for line in (*row.violations, *row.notes)),
        sep="\n",
        file=sys.stderr,
        flush=True,
    )


def table(rows: Iterable[Row]) -> str:
    """All of it, as Markdown."""
    lines = [
        "| | fault | expected | requests | failed | slowest, s | healed after, s | notes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        heal = "" if row.heal_s is None else f"{row.heal_s:.1f}"
        notes = "; ".join([*(f"VIOLATED: {v}" for v in row.violations), *row.notes])
        cells = (
            *(row.fault, row.title, row.expects, str(row.requests), str(row.failures)),
            *(
                f"{row.slowest_s:.2f}",
                heal,
                notes.replace("|", "\\|").replace("\n", " "),
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"| {key} | left out here | | | | | | {why} |" for key, why in LEFT_OUT.items()
    ]
    return "\n".join(lines)


def main() -> int:
    """The exit status."""
    args = arguments()
    faults = chosen(args.size, args.k)
    if args.list:
        print(*(f"{f.key:5} {f.title}" for f in faults), sep="\n")
        return 0
    if not faults:
        print(f"no fault has {args.k!r} in its name", file=sys.stderr)
        return 2
    rows = asyncio.run(run_all(faults, Size(args.size)))
    if args.o == "json":
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print(table(rows))
    return int(any(row.violations for row in rows))


if __name__ == "__main__":
    if problem := lab.missing():
        # As with tests: where it cannot run it says why, and on CI that is a failure.
        print(f"faults: not run here: {problem}", file=sys.stderr)
        sys.exit(bool(os.environ.get("CI")))
    if "-l" not in sys.argv and "--list" not in sys.argv:
        lab.enter()
    sys.exit(main())
