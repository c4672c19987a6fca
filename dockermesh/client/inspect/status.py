"""How far proxies are, and what of a proxy differs from what it should have; words and order as
istioctl's.

Source: istio/istio `istioctl/pkg/writer/pilot/status.go` and `istioctl/pkg/writer/compare`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dockermesh.client.inspect.dump import Dump, Json

COLUMNS = ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS", "ECDS", "ISTIOD", "VERSION"]
_TYPES = ("clusters", "listeners", "endpoints", "routes", "extensions")
_CONTEXT_LINES = 7


def status_entries(report: Mapping[str, Any]) -> list[Json]:
    """Every connected proxy of the report of /debug/workloads, by cluster (the host) and name."""
    entries = [
        _entry(w, report["control_plane"])
        for w in report["workloads"]
        if w["proxy"] is not None
    ]
    return sorted(entries, key=lambda entry: (entry["cluster"], entry["name"]))


def _entry(workload: Mapping[str, Any], control_plane: str) -> Json:
    types = workload["proxy"]["types"]
    return {
        "name": f"{workload['name']}.{workload['namespace']}",
        "cluster": workload["host"],
        "types": {kind: _word(types.get(kind)) for kind in _TYPES},
        "errors": {kind: t["error"] for kind, t in types.items() if t.get("error")},
        "istiod": control_plane,
        "version": workload["proxy"]["envoy"],
    }


def _word(status: Mapping[str, Any] | None) -> str:
    if status is None:
        return "IGNORED"  # Istio's word for what a proxy does not ask for
    if status["state"] == "STALE" and not status["acked"]:
        return "STALE (Never Acknowledged)"
    return str(status["state"])


def status_row(entry: Json) -> list[str]:
    """The cells of an entry."""
    states = [entry["types"][kind] for kind in _TYPES]
    return [entry["name"], entry["cluster"], *states, entry["istiod"], entry["version"]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One type of a proxy: `diff` leads from what it should have to what it has, empty if that is
    the same.
    """

    title: str
    diff: str
    note: str = ""

    def __str__(self) -> str:
        if self.diff:
            return f"{self.title} Don't Match{self.note}\n{self.diff}"
        return f"{self.title} Match{self.note}"


def compare(wanted: Dump, found: Dump) -> list[Comparison]:
    """Clusters, listeners and routes, in this order."""
    at = found.routes_loaded_at()
    warming = ", ".join(sorted(found.warming_clusters()))
    return [
        Comparison(
            "Clusters",
            _diff("Clusters", wanted.dynamic_clusters(), found.dynamic_clusters()),
            f" (warming: {warming})" if warming else "",
        ),
        Comparison(
            "Listeners",
            _diff("Listeners", wanted.dynamic_listeners(), found.dynamic_listeners()),
        ),
        Comparison(
            "Routes",
            _diff("Routes", wanted.dynamic_routes(), found.dynamic_routes()),
            f" (RDS last loaded at {_readable(at)})" if at else "",
        ),
    ]


def _diff(title: str, wanted: list[Json], found: list[Json]) -> str:
    before, after = _lines(wanted), _lines(found)
    if before == after:
        return ""
    made = difflib.unified_diff(
        before, after, f"Istiod {title}", f"Envoy {title}", n=_CONTEXT_LINES
    )
    return "".join(made)


def _lines(resources: list[Json]) -> list[str]:
    listed = sorted(resources, key=lambda item: str(item.get("name", "")))
    alike = json.loads(json.dumps(listed), parse_float=_number)
    return json.dumps(alike, indent=3, sort_keys=True).splitlines(keepends=True)


def _number(text: str) -> float:
    """Protobuf writes a whole number of a float field as 1.0, Envoy as 1."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _readable(moment: str) -> str:
    """RFC 1123 in the local time zone."""
    try:
        return (
            datetime.fromisoformat(moment)
            .astimezone()
            .strftime("%a, %d %b %Y %H:%M:%S %Z")
        )
    except ValueError:
        return moment
