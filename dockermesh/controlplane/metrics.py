"""The control plane's metrics in Prometheus' text format, gathered when they are asked for."""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dockermesh.controlplane.config_reader import Instead, RefusedResource
from dockermesh.controlplane.istio_metrics import (
    histogram_of,
    istio_metrics,
    with_istios_types,
)
from dockermesh.controlplane.trust.ca_report import is_late
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.controlplane.updates import Updates
from dockermesh.limiter.orders import Report
from dockermesh.model import Catalog, Refusal, RefusedFor
from dockermesh.registry import StoredResource
from dockermesh.translate.translator import Counters
from dockermesh.xds import Metrics, Sync
from dockermesh.xds.snapshot import FIELDS
from dockermesh.xds.timings import Timings


def render_metrics(
    metrics: Metrics,
    sync: Sync,
    counters: Counters,
    catalog: Catalog,
    connected: Set[str],
    more: Iterable[Metric] = (),
) -> str:
    """All metrics as text, with `more` that others made."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(
        _Snapshot(
            [
                *_xds(metrics, sync),
                *istio_metrics(metrics, sync),
                *_translation(counters),
                *_catalog(catalog, connected),
                *more,
            ]
        )
    )
    return with_istios_types(generate_latest(registry).decode())


class _Snapshot(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _xds(metrics: Metrics, sync: Sync) -> Iterator[Metric]:
    per_type = {
        "dockermesh_xds_pushes": ("Responses sent to proxies.", metrics.pushes),
        "dockermesh_xds_resources_sent": (
            "Resources sent to proxies.",
            metrics.resources_sent,
        ),
        "dockermesh_xds_acks": ("Responses that proxies accepted.", metrics.acks),
        "dockermesh_xds_nacks": ("Responses that proxies refused.", metrics.nacks),
        "dockermesh_xds_resumed": (
            "Subscriptions of reconnecting proxies that were up to date.",
            metrics.resumed,
        ),
    }
    for name, (text, counts) in per_type.items():
        family = CounterMetricFamily(name, text, labels=["type"])
        for type_url, field in FIELDS.items():
            family.add_metric([field], counts.get(type_url, 0))
        yield family

    yield CounterMetricFamily(
        "dockermesh_xds_streams",
        "Streams opened by proxies.",
        value=metrics.streams_opened,
    )
    yield CounterMetricFamily(
        "dockermesh_xds_streams_refused",
        "Streams refused.",
        value=metrics.streams_refused,
    )
    yield CounterMetricFamily(
        "dockermesh_xds_connections_ended",
        "Connections without a stream that were ended, as their peer had too many.",
        value=metrics.connections_ended,
    )
    yield CounterMetricFamily(
        "dockermesh_xds_publishes",
        "New states offered to proxies.",
        value=metrics.publishes,
    )
    yield GaugeMetricFamily(
        "dockermesh_proxies_connected", "Proxies connected.", value=sync.connected
    )
    yield GaugeMetricFamily(
        "dockermesh_proxies_pending",
        "Proxies that wait for the newest state.",
        value=sync.pending,
    )
    yield GaugeMetricFamily(
        "dockermesh_proxies_nacked",
        "Proxies that refused something.",
        value=sync.nacked,
    )


def mesh_timings(timings: Timings, updates: Updates) -> Iterator[Metric]:
    """How long changes take until all proxies have what follows; times in seconds."""
    yield histogram_of(
        "dockermesh_convergence_seconds",
        "From a change, as the control plane hears of it, until the last proxy took what follows.",
        "of",
        timings.mesh,
    )
    since = timings.waits_since
    yield GaugeMetricFamily(
        "dockermesh_unconverged_seconds",
        "Since the oldest change that a proxy has not taken yet; 0 without one.",
        value=time.monotonic() - since if since is not None else 0.0,
    )
    yield GaugeMetricFamily(
        "dockermesh_registry_lag_seconds",
        "Since when the registry cannot be followed; 0 while it can.",
        value=updates.lag,
    )


def healing_metrics(counts: Mapping[tuple[str, str], int]) -> Iterator[Metric]:
    """What the registrar in this process healed."""
    family = CounterMetricFamily(
        "dockermesh_healed",
        "Containers that the registrar started, restarted or stopped to heal them.",
        labels=["role", "by"],
    )
    for role, verb in product(("app", "pod", "proxy"), ("restart", "start", "stop")):
        family.add_metric([role, verb], counts.get((role, verb), 0))
    yield family


def span_metrics(counts: Mapping[str, int]) -> Iterator[Metric]:
    """What became of spans that proxies sent."""
    family = CounterMetricFamily(
        "dockermesh_spans", "Spans that proxies sent.", labels=["outcome"]
    )
    for outcome in ("taken", "over_rate", "malformed"):
        family.add_metric([outcome], counts.get(outcome, 0))
    yield family


def trust_metrics(trust: Trust) -> Iterator[Metric]:
    """The CA's roots and the certificates that proxies hold; times are Unix times in seconds."""
    secrets = trust.secrets
    if secrets is None:
        return

    now, leaves = datetime.datetime.now(datetime.UTC), secrets.leaves()
    material = trust.authority.material
    late = sum(is_late(leaf, now) for leaf in leaves.values())
    ends = {
        "dockermesh_ca_root_expiry_seconds": (
            "When the first trusted root expires.",
            material.roots,
        ),
        "dockermesh_ca_signer_expiry_seconds": (
            "When the signing certificate expires.",
            [material.signer.certificate],
        ),
    }

    for name, (text, items) in ends.items():
        yield GaugeMetricFamily(
            name, text, value=min(c.not_valid_after_utc for c in items).timestamp()
        )

    first = min((leaf.not_after for leaf in leaves.values()), default=None)
    if first is not None:
        text = "When the first of the proxies' certificates expires."
        yield GaugeMetricFamily(
            "dockermesh_certificates_expiry_seconds", text, value=first.timestamp()
        )
        oldest = min(leaf.not_before for leaf in leaves.values())
        yield GaugeMetricFamily(
            "dockermesh_certificates_oldest_seconds",
            "Age of the oldest certificate that a proxy holds.",
            value=(now - oldest).total_seconds(),
        )

    yield GaugeMetricFamily(
        "dockermesh_ca_roots",
        "Trusted roots; more than 1 in a rotation.",
        value=len(material.roots),
    )
    yield GaugeMetricFamily(
        "dockermesh_certificates", "Certificates that proxies hold.", value=len(leaves)
    )
    yield GaugeMetricFamily(
        "dockermesh_certificates_overdue",
        "Certificates overdue for renewal.",
        value=late,
    )
    yield CounterMetricFamily(
        "dockermesh_certificates_issued", "Certificates issued.", value=secrets.issued
    )
    yield CounterMetricFamily(
        "dockermesh_certificate_failures", "Failures to issue.", value=secrets.failures
    )
    yield CounterMetricFamily(
        "dockermesh_clock_jumps",
        "Times that the clock was set.",
        value=secrets.clock_jumps,
    )


def ca_metrics(problem: str) -> Iterator[Metric]:
    """Whether the CA is what its store says."""
    yield GaugeMetricFamily(
        "dockermesh_ca_degraded",
        "1 while the CA is not what its store says, or a copy of it is in force.",
        value=int(bool(problem)),
    )


def host_metrics(
    missing: Collection[str], disk_problem: str, engine_problem: str
) -> Iterator[Metric]:
    """How it stands with the control plane itself, and with the host that it runs on."""
    yield GaugeMetricFamily(
        "dockermesh_ready", "1 while proxies are served.", value=int(not missing)
    )
    yield GaugeMetricFamily(
        "dockermesh_state_degraded",
        "1 while the control plane's state cannot be written: a full or read-only disk.",
        value=int(bool(disk_problem)),
    )
    yield GaugeMetricFamily(
        "dockermesh_engine_degraded",
        "1 while the registrar in the control plane cannot follow its engine.",
        value=int(bool(engine_problem)),
    )


def config_metrics(
    stored: Mapping[str, StoredResource],
    refused: Collection[RefusedResource],
    problems: Sequence[str],
) -> Iterator[Metric]:
    """Whether the config is what its store says."""
    yield GaugeMetricFamily(
        "dockermesh_config_degraded",
        "1 while config or tokens are not what their store says, or may be out of date.",
        value=int(bool(problems)),
    )
    damaged = GaugeMetricFamily(
        "dockermesh_config_damaged",
        "Resources whose stored value cannot be read, by what is used in its place.",
        labels=["used"],
    )
    lost = sum(item.is_lost for item in stored.values())
    kept = sum(bool(item.damage) for item in stored.values()) - lost
    damaged.add_metric(["last good content"], kept)
    damaged.add_metric(["nothing"], lost)
    yield damaged

    invalid = GaugeMetricFamily(
        "dockermesh_config_refused",
        "Stored resources that are not valid for this version, by what is in force instead.",
        labels=["instead"],
    )
    counted = Counter(one.instead for one in refused)
    for instead in get_args(Instead):
        invalid.add_metric([instead], counted[instead])
    yield invalid


def refusal_metrics(refused: Iterable[Refusal]) -> Iterator[Metric]:
    """How many registrations ask for what is another's, by what that is."""
    kinds = [refusal.kind for refusal in refused]
    family = GaugeMetricFamily(
        "dockermesh_registrations_refused",
        "Registrations that ask for a service's name or id that is another's.",
        labels=["of"],
    )
    for kind in RefusedFor:
        family.add_metric([kind.value], kinds.count(kind))
    yield family


def limiter_metrics(report: Report, problem: str) -> Iterator[Metric]:
    """What the limiter decided. Of a limiter that was started anew, from then on."""
    decisions = CounterMetricFamily(
        "dockermesh_limiter_decisions",
        "Decisions of the limiter, by limit and outcome.",
        labels=["limit", "outcome"],
    )
    for limit, outcome, count in report.decisions:
        decisions.add_metric([limit, outcome], count)
    yield decisions
    yield CounterMetricFamily(
        "dockermesh_limiter_undecided",
        "Questions that the limiter could not decide.",
        value=report.undecided,
    )
    yield CounterMetricFamily(
        "dockermesh_limiter_evicted",
        "Buckets that made room for others before they were empty.",
        value=report.evicted,
    )
    yield GaugeMetricFamily(
        "dockermesh_limiter_buckets",
        "Buckets that the limiter keeps in memory.",
        value=report.buckets,
    )
    yield GaugeMetricFamily(
        "dockermesh_limiter_degraded",
        "1 while the limiter cannot count.",
        value=int(bool(problem)),
    )


def _translation(counters: Counters) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "dockermesh_translations",
        "Translations done, by what was redone.",
        labels=["of"],
    )
    for name in ("services", "assignments", "tables", "inbound", "gateways"):
        family.add_metric([name], getattr(counters, name))
    yield family


def _catalog(catalog: Catalog, connected: Set[str]) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "dockermesh_services", "Services in the catalog.", value=len(catalog.services)
    )
    yield GaugeMetricFamily(
        "dockermesh_workloads",
        "Workloads in the catalog.",
        value=len(catalog.workloads),
    )
    yield GaugeMetricFamily(
        "dockermesh_proxies_missing",
        "Workloads of the catalog whose proxy is not connected to this control plane.",
        value=len(catalog.workloads.keys() - connected),
    )
    yield GaugeMetricFamily(
        "dockermesh_registry_degraded",
        "1 while the registry cannot be followed.",
        value=int(bool(catalog.degraded)),
    )
