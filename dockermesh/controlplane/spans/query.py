"""Which of the kept traces somebody asks about."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dockermesh.controlplane.spans.zipkin import Span
from dockermesh.model.spans import extent, is_error, service_of

MOST = 1000
_REQUEST_ID = "guid:x-request-id"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The newest `last` traces that are so. `id` is that of a trace, as far as it goes, or of a
    request; `service` one that took part; `slow_us` how long it took at least.
    """

    last: int = 10
    id: str = ""
    service: str = ""
    slow_us: int = 0
    has_errors: bool = False


def wanted_of(query: Mapping[str, str]) -> Wanted:
    """What the parameters of a page ask for. Raises ValueError."""
    return Wanted(
        last=min(max(int(query.get("last", 10)), 1), MOST),
        id=query.get("id", "").lower(),
        service=query.get("service", ""),
        slow_us=int(query.get("slow_us", 0)),
        has_errors=query.get("errors", "") in {"1", "true"},
    )


def find_traces(texts: Iterable[bytes], wanted: Wanted) -> list[list[Span]]:
    """The traces, the newest last, each with its spans in the order of time."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for text in texts:
        span: Span = json.loads(text)
        # With 64 bits the older headers pass on the second half of an id alone.
        traces[span["traceId"][-16:]].append(span)

    found = [
        sorted(spans, key=lambda s: (s["timestamp"], s["id"]))
        for spans in traces.values()
        if _is_wanted(spans, wanted)
    ]
    found.sort(key=lambda spans: spans[0]["timestamp"])
    return found[-wanted.last :]


def _is_wanted(spans: list[Span], wanted: Wanted) -> bool:
    if wanted.id and not any(
        span["traceId"].startswith(wanted.id)
        or span["traceId"].endswith(wanted.id)
        or span["tags"].get(_REQUEST_ID) == wanted.id
        for span in spans
    ):
        return False
    if wanted.service and wanted.service not in {service_of(span) for span in spans}:
        return False
    if wanted.has_errors and not any(map(is_error, spans)):
        return False
    return extent(spans)[1] >= wanted.slow_us
