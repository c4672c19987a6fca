"""Rates, success and durations of edges, of workloads and of services, from the proxies' counts.

Counts never fall while somebody looks, so the difference of two looks is what happened between
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dockermesh.model.canonical import UNKNOWN
from dockermesh.model.traffic import NUMBERS, Tally

_POOR, _BAD = 0.999, 0.95
"""Of requests that were answered: a share below is not good any more."""


class By(StrEnum):
    """What a line is of."""

    WORKLOAD = "workload"
    SERVICE = "service"
    EDGE = "edge"


class Grade(StrEnum):
    """How well a line's requests fare."""

    GOOD = "good"
    POOR = "poor"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Name:
    """A workload, with its namespace."""

    name: str
    namespace: str = ""

    def __str__(self) -> str:
        return self.name if not self.namespace else f"{self.name}.{self.namespace}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Who calls whom, by which service."""

    source: Name
    destination: Name
    service: str


@dataclass(slots=True)
class Counts(Tally):
    """What was counted of a line; `buckets` are requests by how long they took at most. `latest`
    are those of the newest part, where the control plane asks for durations in turn.
    """

    buckets: dict[str, int] = field(default_factory=dict)
    latest: dict[str, int] | None = None

    def add(self, other: Counts) -> None:
        """Count what another counted, too."""
        self.add_tally(other)
        for bound, number in other.buckets.items():
            self.buckets[bound] = self.buckets.get(bound, 0) + number

    def since(self, before: Counts) -> Counts:
        """What was counted after another look; nothing is negative."""
        numbers = {
            name: max(0, getattr(self, name) - getattr(before, name))
            for name in NUMBERS
        }
        buckets = self.latest
        if buckets is None:
            buckets = _less(self.buckets, before.buckets)
        return Counts(**numbers, codes=_less(self.codes, before.codes), buckets=buckets)

    def quantile(self, share: float) -> float | None:
        """The time in milliseconds within which that share was answered, between the bounds of a
        bucket in proportion, as Prometheus has it; None if nothing was.
        """
        bounds = sorted((_bound(text), count) for text, count in self.buckets.items())
        if not bounds or not bounds[-1][1]:
            return None
        wanted = bounds[-1][1] * share
        low, below = 0.0, 0
        for bound, count in bounds:
            if count >= wanted and count > below:
                if math.isinf(bound):
                    return low
                return low + (bound - low) * (wanted - below) / (count - below)
            low, below = bound, count
        return low


def _bound(text: str) -> float:
    return math.inf if text == "+Inf" else float(text)


def _less(now: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    found = {key: number - before.get(key, 0) for key, number in now.items()}
    return {key: number for key, number in found.items() if number > 0}


@dataclass(frozen=True, slots=True)
class Look:
    """The counts of all edges at one moment."""

    at: float
    edges: Mapping[Pair, Counts]
    proxies: int = 0
    silent: tuple[str, ...] = ()
    durations_s: float = 0.0
    """Of how long a time durations are; 0: of that between two looks."""


def read_look(report: Mapping[str, Any]) -> Look:
    """The control plane's report."""
    durations_s = report.get("durations_s", 0.0)
    edges = {
        Pair(
            Name(raw["source"], _known(raw["source_namespace"])),
            Name(raw["destination"], _known(raw["destination_namespace"])),
            raw["service"],
        ): Counts(
            **{name: raw.get(name, 0) for name in NUMBERS},
            codes=raw.get("codes", {}),
            buckets=dict(zip(raw.get("bounds", ()), raw.get("times", ()), strict=True)),
            latest=(
                dict(zip(raw.get("bounds", ()), raw.get("latest", ()), strict=False))
                if durations_s
                else None
            ),
        )
        for raw in report["edges"]
    }
    silent = (*report.get("silent", ()), *[""] * report.get("more_silent", 0))
    return Look(report["at"], edges, report.get("proxies", 0), silent, durations_s)


def _known(namespace: str) -> str:
    return "" if namespace == UNKNOWN else namespace


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: what happened in a time, and what was counted in all."""

    source: str
    name: str
    service: str
    seconds: float
    recent: Counts
    total: Counts

    @property
    def rate(self) -> float:
        """Requests in a second."""
        return self.recent.requests / self.seconds if self.seconds else 0.0

    @property
    def success(self) -> float | None:
        """The share of requests that were answered, from 0 to 1; None if there were none."""
        if not self.recent.requests:
            return None
        return 1 - self.recent.failures / self.recent.requests

    @property
    def grade(self) -> Grade | None:
        """How good the share is that was answered; None without requests."""
        if self.success is None:
            return None
        if self.success < _BAD:
            return Grade.BAD
        return Grade.POOR if self.success < _POOR else Grade.GOOD

    @property
    def bytes_rate(self) -> float:
        """Bytes of TCP connections in a second, in both directions."""
        moved = self.recent.sent + self.recent.received
        return moved / self.seconds if self.seconds else 0.0

    @property
    def mtls(self) -> float | None:
        """The share with mutual TLS, from 0 to 1; None if nobody knows."""
        known = self.total.secure + self.total.plain
        return self.total.secure / known if known else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        recent, total = self.recent, self.total
        return {
            **({"source": self.source} if self.source else {}),
            "name": self.name,
            **({"service": self.service} if self.service else {}),
            "requestsPerSecond": round(self.rate, 3),
            "success": _rounded(self.success),
            "p50Ms": _rounded(recent.quantile(0.5)),
            "p90Ms": _rounded(recent.quantile(0.9)),
            "p99Ms": _rounded(recent.quantile(0.99)),
            "tcpBytesPerSecond": round(self.bytes_rate, 1),
            "mtls": _rounded(self.mtls),
            "recent": {"requests": recent.requests, "failures": recent.failures},
            "total": {
                "requests": total.requests,
                "failures": total.failures,
                "codes": dict(sorted(total.codes.items())),
                "tcpSentBytes": total.sent,
                "tcpReceivedBytes": total.received,
                "tcpOpened": total.opened,
                "tcpClosed": total.closed,
            },
        }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 4)


def lines(now: Look, before: Look | None, by: By) -> list[Line]:
    """The lines of a table; without a look before, there are no rates."""
    seconds = now.at - before.at if before is not None else 0.0
    recent: dict[tuple[str, str, str], Counts] = {}
    total: dict[tuple[str, str, str], Counts] = {}
    for pair, counts in now.edges.items():
        key = _key(pair, by)
        if key is None:
            continue
        total.setdefault(key, Counts()).add(counts)
        earlier = before.edges.get(pair) if before is not None else None
        # What is new since then began at nothing.
        new = counts.since(earlier or Counts()) if before is not None else Counts()
        recent.setdefault(key, Counts()).add(new)
    return [Line(*key, seconds, recent[key], total[key]) for key in sorted(total)]


def _key(pair: Pair, by: By) -> tuple[str, str, str] | None:
    if by is By.SERVICE:
        return ("", pair.service, "") if pair.service != UNKNOWN else None
    called = str(pair.destination)
    if pair.destination.name == UNKNOWN:
        # What never arrived, or is outside of the mesh: of it only the service is known.
        called = pair.service
    if by is By.WORKLOAD:
        return ("", called, "") if pair.destination.name != UNKNOWN else None
    return str(pair.source), called, pair.service


_SORTS: Mapping[str, Callable[[Line], Any]] = {
    "name": lambda line: (line.source, line.name),
    "rps": lambda line: -line.rate,
    "success": lambda line: 2.0 if line.success is None else line.success,
    "p50": lambda line: -(line.recent.quantile(0.5) or 0.0),
    "p90": lambda line: -(line.recent.quantile(0.9) or 0.0),
    "p99": lambda line: -(line.recent.quantile(0.99) or 0.0),
    "tcp": lambda line: -line.bytes_rate,
}


def arranged(
    found: Iterable[Line], sort: str, wanted: Iterable[str] = ()
) -> list[Line]:
    """The lines in order, the first being what one looks for; with `wanted` only those in which one
    of the names is.
    """
    names = tuple(wanted)
    chosen = (
        line
        for line in found
        if not names
        or any(n in f"{line.source} {line.name} {line.service}" for n in names)
    )
    return sorted(chosen, key=lambda line: (_SORTS[sort](line), line.source, line.name))
