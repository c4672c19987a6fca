"""Pages of metrics as proxies give them: 15 callers and 15 whom they call, each with two codes."""

from __future__ import annotations

import re
from collections.abc import Iterator

PEERS = 15
_BOUNDS = (
    *("0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000"),
    *("10000", "30000", "60000", "300000", "600000", "1800000", "3600000", "+Inf"),
)
_MORE = [
    "app",
    "canonical_revision",
    "canonical_service",
    "cluster",
    "principal",
    "version",
]


def page(own: int, workloads: int, turn: int, wanted: str) -> str:
    """The page of one workload, in a certain turn: the metrics whose names the expression finds."""
    lines = _lines(own, workloads, turn)
    found = re.compile(wanted)
    return "\n".join(line for line in lines if found.search(_name(line))) + "\n"


def _name(line: str) -> str:
    return line.removeprefix("# TYPE ").partition("{")[0].partition(" ")[0]


def _lines(own: int, workloads: int, turn: int) -> Iterator[str]:
    steps = range(1, PEERS + 1)
    pairs = [("source", own, (own + step) % workloads) for step in steps]
    pairs += [("destination", (own - step) % workloads, own) for step in steps]
    series = [(*pair, code) for pair in pairs for code in ("200", "503")]
    yield "# TYPE istio_requests_total counter"
    for reporter, source, destination, code in series:
        labels = _labels(reporter, source, destination, code, full=True)
        yield f"istio_requests_total{{{labels}}} {turn * 20 + len(code)}"
    yield "# TYPE istio_request_duration_milliseconds histogram"
    for reporter, source, destination, code in series:
        labels = _labels(reporter, source, destination, code, full=False)
        for number, bound in enumerate(_BOUNDS):
            count = min(turn * 20, number * turn)
            yield f'istio_request_duration_milliseconds_bucket{{{labels},le="{bound}"}} {count}'
        yield f"istio_request_duration_milliseconds_sum{{{labels}}} {turn * 400}.5"
        yield f"istio_request_duration_milliseconds_count{{{labels}}} {turn * 20}"


def _labels(
    reporter: str, source: int, destination: int, code: str, *, full: bool
) -> str:
    found = {
        "reporter": reporter,
        "response_code": code,
        "connection_security_policy": "mutual_tls"
        if reporter == "destination"
        else "unknown",
        "source_workload": f"service-{source}",
        "source_workload_namespace": "default",
        "destination_workload": f"service-{destination}",
        "destination_workload_namespace": "default",
        "destination_service": f"service-{destination}.service.consul",
    }
    if full:
        for side, number in (("source", source), ("destination", destination)):
            value = f"spiffe://cluster.local/ns/default/sa/service-{number}"
            found |= {f"{side}_{name}": value for name in _MORE}
    return ",".join(f'{name}="{value}"' for name, value in found.items())
