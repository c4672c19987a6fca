"""Which metrics a proxy makes, and with which labels, by its Telemetry resources and the mesh's
settings.

The last entry that names providers says which make metrics at all, an entry without any is about
those of the entry before, and of what entries say of one metric the last counts, label by label.
To disable all metrics leaves what is said of each as it is: whatever is said after that, of any
metric, has all of them back. Source: Istio's `pilot/pkg/model/telemetry.go` (mergeMetrics).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from dockermesh.config.api.telemetry import (
    IstioMetric,
    Metrics,
    MetricSelector,
    MetricsOverrides,
    TagOperation,
    WorkloadMode,
)

PROMETHEUS = "prometheus"
"""The provider that Istio has without being told of it."""
NAMES: Mapping[IstioMetric, str] = {
    IstioMetric.REQUEST_COUNT: "istio_requests_total",
    IstioMetric.REQUEST_DURATION: "istio_request_duration_milliseconds",
    IstioMetric.REQUEST_SIZE: "istio_request_bytes",
    IstioMetric.RESPONSE_SIZE: "istio_response_bytes",
    IstioMetric.TCP_OPENED_CONNECTIONS: "istio_tcp_connections_opened_total",
    IstioMetric.TCP_CLOSED_CONNECTIONS: "istio_tcp_connections_closed_total",
    IstioMetric.TCP_SENT_BYTES: "istio_tcp_sent_bytes_total",
    IstioMetric.TCP_RECEIVED_BYTES: "istio_tcp_received_bytes_total",
}
"""The metrics that there are, by what Telemetry calls them."""


@dataclass(frozen=True, slots=True)
class Change:
    """How a metric differs from what it is by default: labels with the expression that makes them,
    or None where one is left out.
    """

    is_off: bool = False
    labels: tuple[tuple[str, str | None], ...] = ()


NO_CHANGE = Change()
Changes = Mapping[IstioMetric, Change]


def changes(
    levels: Iterable[tuple[Metrics, ...]],
    defaults: tuple[str, ...],
    known: Iterable[str],
    mode: WorkloadMode,
) -> Changes | None:
    """The changes of metrics, the widest level of Telemetry first; None where no provider of those
    that are `known` (in any case) makes any. `mode` is CLIENT or SERVER.
    """
    entries = [entry for level in levels for entry in level]
    named = [tuple(p.name for p in entry.providers) for entry in entries]
    chosen = next((names for names in reversed(named) if names), defaults)
    provider = next((n for n in chosen if n.casefold() in set(known)), None)
    if provider is None:
        return None

    found: dict[IstioMetric, Change] = {}
    is_all_off = False
    names = defaults
    for entry, own in zip(entries, named, strict=True):
        names = own or names
        for override in entry.overrides if provider in names else ():
            match = override.match or MetricSelector()
            if not match.mode.covers(mode):
                continue
            is_all_off = bool(override.disabled) and is_of_all(match)
            if not is_all_off:
                _take(found, override, match)

    return dict.fromkeys(NAMES, Change(is_off=True)) if is_all_off else found


def _take(
    found: dict[IstioMetric, Change], override: MetricsOverrides, match: MetricSelector
) -> None:
    for metric in metrics_of(match):
        before = found.get(metric, NO_CHANGE)
        labels = {
            **dict(before.labels),
            **{
                name: tag.value if tag.operation is TagOperation.UPSERT else None
                for name, tag in override.tag_overrides.items()
            },
        }
        is_off = before.is_off if override.disabled is None else override.disabled
        found[metric] = replace(
            before, is_off=is_off, labels=tuple(sorted(labels.items()))
        )


def is_of_all(match: MetricSelector) -> bool:
    """Whether an override is about all metrics."""
    return match.custom_metric is None and match.metric in {
        None,
        IstioMetric.ALL_METRICS,
    }


def metrics_of(match: MetricSelector) -> Iterator[IstioMetric]:
    """The metrics that an override is about, of those that there are."""
    if match.custom_metric is not None:
        # As Istio has it, a metric may be called by what Prometheus calls it.
        yield from (
            metric
            for metric, name in NAMES.items()
            if match.custom_metric in {name, name.removeprefix("istio_")}
        )
    elif is_of_all(match):
        yield from NAMES
    elif match.metric is not None and match.metric in NAMES:
        yield match.metric
