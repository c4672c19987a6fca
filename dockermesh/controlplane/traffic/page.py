"""A proxy's page of Istio's standard metrics as counts of edges: pure, and fast.

An edge is who called whom by which service, as one side reports it. A page comes from a proxy that
may be broken or worse, so it is bounded: what is beyond is passed over.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add, le, sub
from sys import intern

from dockermesh.model.canonical import UNKNOWN
from dockermesh.model.traffic import NUMBERS, Tally

COUNTS = "istio_(requests_total|tcp_)"
"""What is asked for, as an expression on the names of metrics."""
DURATIONS = "istio_request_duration_milliseconds"
"""The same for durations, which are twenty lines for each line of counts."""
WHOLE = f"{COUNTS}|{DURATIONS}"
MOST_EDGES = 4000
"""Of one proxy: no more than it counts series at all."""

_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_LONGEST = 256
_LARGEST = 2**62
_BUCKET = "istio_request_duration_milliseconds_bucket{"
_LE = ',le="'
_USUAL, _MOST_BUCKETS = 20, 64
_BOUNDS: dict[tuple[str, ...], tuple[str, ...]] = {}
_REQUESTS = "istio_requests_total"
_TCP = {
    "istio_tcp_sent_bytes_total": "sent",
    "istio_tcp_received_bytes_total": "received",
    "istio_tcp_connections_opened_total": "opened",
    "istio_tcp_connections_closed_total": "closed",
}
_SERVER_ERRORS = frozenset({"2", "4", "12", "13", "14", "15"})
"""gRPC's statuses that are the server's fault, as OpenTelemetry counts them."""
_MOST_KNOWN = 200_000
_Series = tuple["Key", str, bool, str]
"""Of a counter: its edge, the code, whether that is a failure, and the connection's security."""
_KNOWN: dict[int, _Series] = {}
"""By the hash of the labels: a proxy has the same series in every page."""
_IDENTITY = (
    "reporter",
    "source_workload",
    "source_workload_namespace",
    "destination_workload",
    "destination_workload_namespace",
    "destination_service",
)

Key = tuple[str, str, str, str, str, str]
"""The reporter, the caller with its namespace, the called with its namespace, and the service."""


@dataclass(slots=True)
class Counts(Tally):
    """What was counted of an edge, since its proxy started."""

    # How many requests took no longer than each bound, in milliseconds.
    bounds: tuple[str, ...] = ()
    times: array[int] = field(default_factory=lambda: array("q"))

    def add(self, other: Counts) -> None:
        """Count what another counted, too."""
        self.add_tally(other)
        self.add_times(other.bounds, other.times)

    def add_times(self, bounds: tuple[str, ...], times: Sequence[int]) -> None:
        """Count durations, too. Of bounds that are not the same nothing can be added."""
        if not self.bounds:
            self.bounds, self.times = bounds, array("q", times)
        elif bounds == self.bounds:
            self.times = array("q", map(add, self.times, times))

    def is_before(self, other: Counts) -> bool:
        """Whether the other may come of more counting; else the proxy started anew."""
        return all(
            getattr(self, name) <= getattr(other, name) for name in NUMBERS
        ) and (self.bounds != other.bounds or all(map(le, self.times, other.times)))

    def times_since(self, before: Counts | None) -> array[int]:
        """How many requests took how long after another page of the same proxy."""
        if before is None or self.bounds != before.bounds or not before.is_before(self):
            return self.times
        return array("q", map(sub, self.times, before.times))


def read_page(text: str) -> dict[Key, Counts]:
    """The edges of a page."""
    found: dict[Key, Counts] = {}
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.startswith(_BUCKET):
            number = _read_histogram(found, lines, number)
            continue
        number += 1
        name, _, rest = line.partition("{")
        if name == _REQUESTS:
            labels, _, written = rest.rpartition("} ")
            _count_requests(found, _series(labels), number_of(written))
        elif name in _TCP:
            labels, _, written = rest.rpartition("} ")
            _count_bytes(found, _series(labels), _TCP[name], number_of(written))
    return found


def _read_histogram(found: dict[Key, Counts], lines: Sequence[str], number: int) -> int:
    """Read the lines of one histogram, which follow each other and differ in the bucket alone;
    returns the number of the line behind.
    """
    labels, sign, _ = lines[number].partition(_LE)
    if not sign:
        return number + 1
    head = labels + sign
    # Nearly all histograms have as many.
    end = number + _USUAL
    if not _is_all(lines, number, end, head):
        end = number + 1
        while end < len(lines) and lines[end].startswith(head):
            end += 1
    cut = len(head)
    tails = [line[cut:].partition('"} ') for line in lines[number:end]]
    times = [number_of(tail[2]) for tail in tails[:_MOST_BUCKETS]]
    if times[-1]:
        # Interned: few of them differ, and there are very many.
        bounds = tuple([intern(tail[0][:_LONGEST]) for tail in tails[:_MOST_BUCKETS]])
        if len(_BOUNDS) < _MOST_BUCKETS:
            bounds = _BOUNDS.setdefault(bounds, bounds)
        else:
            bounds = _BOUNDS.get(bounds, bounds)
        counts = _counts(found, _key(_labels(labels[len(_BUCKET) :])))
        counts.add_times(bounds, times)
    return end


def _is_all(lines: Sequence[str], number: int, end: int, head: str) -> bool:
    return (
        end <= len(lines)
        and lines[end - 1].startswith(head)
        and (end == len(lines) or not lines[end].startswith(head))
    )


def _count_requests(found: dict[Key, Counts], series: _Series, number: int) -> None:
    key, code, is_failure, policy = series
    counts = _counts(found, key)
    counts.requests += number
    counts.codes[code] = counts.codes.get(code, 0) + number
    if is_failure:
        counts.failures += number
    _count_security(counts, policy, number)


def _count_bytes(
    found: dict[Key, Counts], series: _Series, field: str, number: int
) -> None:
    counts = _counts(found, series[0])
    setattr(counts, field, getattr(counts, field) + number)
    if field == "opened":
        _count_security(counts, series[3], number)


def _count_security(counts: Counts, policy: str, number: int) -> None:
    if policy == "mutual_tls":
        counts.secure += number
    elif policy == "none":
        counts.plain += number


def _series(text: str) -> _Series:
    seen = hash(text)
    found = _KNOWN.get(seen)
    if found is None:
        labels = _labels(text)
        code = intern(labels.get("response_code", "")[:_LONGEST])
        status = labels.get("grpc_response_status")
        is_failure = code.startswith("5") or status in _SERVER_ERRORS
        policy = intern(labels.get("connection_security_policy", "")[:_LONGEST])
        found = (_key(labels), code, is_failure, policy)
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[seen] = found
    return found


def forget_series() -> None:
    """Nobody looks any more."""
    _KNOWN.clear()


def _key(labels: dict[str, str]) -> Key:
    reporter, source, space, destination, other_space, service = (
        intern(labels.get(name, UNKNOWN)[:_LONGEST]) for name in _IDENTITY
    )
    return (reporter, source, space, destination, other_space, service)


def _counts(found: dict[Key, Counts], key: Key) -> Counts:
    counts = found.get(key)
    if counts is None:
        counts = Counts()
        if len(found) < MOST_EDGES:
            found[key] = counts
    return counts


def _labels(text: str) -> dict[str, str]:
    if "\\" in text:
        return dict(_LABEL.findall(text))
    pairs = (part.partition('="') for part in text.rstrip('"').split('",'))
    return {name: value for name, _, value in pairs}


def number_of(text: str) -> int:
    """The count that a line ends with; 0 for what is none."""
    try:
        number = int(text)
    except ValueError:
        return 0
    return number if 0 <= number < _LARGEST else 0
