"""The proxies that Prometheus is to ask, in the form of its `http_sd_configs`: pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dockermesh.model import Workload
from dockermesh.model.canonical import facts_of
from dockermesh.model.contract import PROMETHEUS_PORT
from dockermesh.model.hosts import bracketed

METRICS_PATH = "/stats/prometheus"


def with_metrics(workloads: Iterable[Workload]) -> list[Workload]:
    """Those with a proxy that can be asked, by name."""
    found = (w for w in workloads if w.address and w.token_sha256)
    return sorted(found, key=lambda workload: workload.name)


def targets(workloads: Iterable[Workload]) -> list[dict[str, Any]]:
    """One group for each workload with a proxy, by name."""
    return [_target(workload) for workload in with_metrics(workloads)]


def _target(workload: Workload) -> dict[str, Any]:
    facts = facts_of(workload.name, workload.namespace, workload.labels)
    return {
        "targets": [f"{bracketed(workload.address)}:{PROMETHEUS_PORT}"],
        "labels": {
            "__scheme__": "https",
            "__metrics_path__": METRICS_PATH,
            "pod": workload.name,
            "namespace": facts.namespace,
            "workload": facts.name,
            "app": facts.app,
            "version": facts.version,
        },
    }
