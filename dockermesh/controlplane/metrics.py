"""The control plane's metrics in Prometheus' text format, gathered when they are asked for."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dockermesh.controlplane.trust.ca_report import is_late
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.model import Catalog
from dockermesh.registry import StoredResource
from dockermesh.translate.translator import Counters
from dockermesh.xds import Metrics, Sync
from dockermesh.xds.snapshot import FIELDS


def render_metrics(
    metrics: Metrics,
    sync: Sync,
    counters: Counters,
    catalog: Catalog,
    trust: Iterable[Metric] = (),
) -> str:
    """All metrics as text."""
    # Of its own: the library's default one has metrics of this process's Python.
    registry = CollectorRegistry()
    registry.register(
        _Snapshot(
            [*_xds(metrics, sync), *_translation(counters), *_catalog(catalog), *trust]
        )
    )
    return generate_latest(registry).decode()


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


def config_metrics(
    stored: Mapping[str, StoredResource], problems: Sequence[str]
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


def _translation(counters: Counters) -> Iterator[Metric]:
    family = CounterMetricFamily(
        "dockermesh_translations",
        "Translations done, by what was redone.",
        labels=["of"],
    )
    for name in ("services", "assignments", "tables", "inbound", "gateways"):
        family.add_metric([name], getattr(counters, name))
    yield family


def _catalog(catalog: Catalog) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "dockermesh_services", "Services in the catalog.", value=len(catalog.services)
    )
    yield GaugeMetricFamily(
        "dockermesh_workloads",
        "Workloads in the catalog.",
        value=len(catalog.workloads),
    )
    yield GaugeMetricFamily(
        "dockermesh_registry_degraded",
        "1 while the registry cannot be followed.",
        value=int(bool(catalog.degraded)),
    )
