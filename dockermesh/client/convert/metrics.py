"""A metric of Mixer's Prometheus adapter as one of Istio's standard metrics: which it is, the tags
that it needs beside the usual labels, and the query that gives the old one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from dockermesh.client.convert.conditions import constant_of
from dockermesh.client.convert.envoy_words import cel
from dockermesh.client.convert.expression import (
    Attribute,
    Call,
    Expression,
    Inexpressible,
    operands,
    parse,
)
from dockermesh.client.convert.mixer import Part, mapping, sequence, text

_NAMES = {
    "REQUEST_COUNT": "istio_requests_total",
    "REQUEST_DURATION": "istio_request_duration_milliseconds",
    "REQUEST_SIZE": "istio_request_bytes",
    "RESPONSE_SIZE": "istio_response_bytes",
    "TCP_SENT_BYTES": "istio_tcp_sent_bytes_total",
    "TCP_RECEIVED_BYTES": "istio_tcp_received_bytes_total",
    "TCP_OPENED_CONNECTIONS": "istio_tcp_connections_opened_total",
    "TCP_CLOSED_CONNECTIONS": "istio_tcp_connections_closed_total",
}
_VALUES = {
    "request.size": "REQUEST_SIZE",
    "request.total_size": "REQUEST_SIZE",
    "response.size": "RESPONSE_SIZE",
    "response.total_size": "RESPONSE_SIZE",
    "response.duration": "REQUEST_DURATION",
    "connection.sent.bytes": "TCP_SENT_BYTES",
    "connection.received.bytes": "TCP_RECEIVED_BYTES",
}
_EVENTS = {"open": "TCP_OPENED_CONNECTIONS", "close": "TCP_CLOSED_CONNECTIONS"}
_HISTOGRAMS = frozenset({"REQUEST_DURATION", "REQUEST_SIZE", "RESPONSE_SIZE"})
_LABELS = {
    "source.workload.name": "source_workload",
    "source.name": "source_workload",
    "source.workload.namespace": "source_workload_namespace",
    "source.namespace": "source_workload_namespace",
    "source.principal": "source_principal",
    "source.user": "source_principal",
    "source.service": "source_canonical_service",
    "destination.workload.name": "destination_workload",
    "destination.name": "destination_workload",
    "destination.workload.namespace": "destination_workload_namespace",
    "destination.namespace": "destination_workload_namespace",
    "destination.principal": "destination_principal",
    "destination.user": "destination_principal",
    "destination.service": "destination_service",
    "destination.service.host": "destination_service",
    "destination.service.name": "destination_service_name",
    "destination.service.namespace": "destination_service_namespace",
    "response.code": "response_code",
    "response.grpc_status": "grpc_response_status",
    "context.protocol": "request_protocol",
    "context.proxy_error_code": "response_flags",
    "connection.mtls": "connection_security_policy",
}
_OF_LABELS = {"app": "app", "version": "version"}


@dataclass(slots=True)
class Standard:
    """The standard metric that stands for one of Mixer's."""

    metric: str
    old: str
    query: str
    tags: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def is_same(self) -> bool:
        """Whether nobody has to change a query."""
        return self.old == _NAMES[self.metric] and not self.notes and not self.tags


def standard(
    handler: Part,
    instance: Part,
    chosen: Mapping[str, str],
    *,
    is_tcp: bool,
    event: str,
) -> Standard:
    """What stands for a metric, of the series that are chosen by label. Raises Inexpressible where
    nothing does.
    """
    told = _told(handler, instance)
    metric, factor = _metric(
        parse(text(instance.params.get("value")) or "1"), is_tcp, event
    )
    old = text(told.get("name"))
    found = Standard(metric, old if old.startswith("istio_") else f"istio_{old}", "")
    labels = []
    dimensions = mapping(instance.params.get("dimensions"))
    for name in map(text, sequence(told.get("label_names") or told.get("labelNames"))):
        label = _label(name, text(dimensions.get(name)), found)
        if label:
            labels.append(label)
    series = _NAMES[metric]
    if metric in _HISTOGRAMS:
        series += "_sum" if text(told.get("kind")) == "COUNTER" else "_bucket"
        labels += ["le"] if series.endswith("_bucket") else []
    if chosen:
        pairs = (f"{key}={json.dumps(value)}" for key, value in chosen.items())
        series += f"{{{','.join(pairs)}}}"
    times = f"{factor} * " if factor != 1 else ""
    found.query = f"{times}sum by ({', '.join(dict.fromkeys(labels))}) ({series})"
    if metric == "REQUEST_DURATION":
        found.notes.append("durations are in milliseconds")
    return found


def _told(handler: Part, instance: Part) -> Mapping[str, object]:
    item = instance.item
    names = {
        f"{item.name}.{kind}.{item.namespace}" for kind in (item.kind, instance.type)
    }
    for raw in map(mapping, sequence(handler.params.get("metrics"))):
        given = text(raw.get("instance_name") or raw.get("instanceName"))
        if given in names | {item.name}:
            if text(raw.get("kind")) == "GAUGE":
                raise Inexpressible(
                    "proxies keep counters and histograms, and no gauges"
                )
            return raw
    raise Inexpressible(f"{handler.item} has no metric for {item}")


def _metric(value: Expression, is_tcp: bool, event: str) -> tuple[str, float]:
    first = operands(value)[0]
    constant = constant_of(first)
    if isinstance(constant, int | float) and not isinstance(constant, bool):
        if is_tcp:
            return _EVENTS.get(event, "TCP_OPENED_CONNECTIONS"), constant
        return "REQUEST_COUNT", constant
    if isinstance(first, Attribute) and first.name in _VALUES:
        return _VALUES[first.name], 1
    raise Inexpressible("no standard metric has its value")


def _label(name: str, written: str, found: Standard) -> str:
    """The label that has a dimension; empty if it cannot be had."""
    expression = parse(written) if written else Attribute("")
    first = operands(expression)[0]
    if isinstance(first, Call) and "context.reporter" in written:
        return "reporter"
    if isinstance(first, Attribute):
        if (
            first.name in ("source.labels", "destination.labels")
            and first.key in _OF_LABELS
        ):
            return f"{first.name.partition('.')[0]}_{first.key}"
        if first.name in _LABELS:
            return _LABELS[first.name]
    try:
        found.tags[name] = cel(expression)
    except Inexpressible as reason:
        found.notes.append(f"without the label {name}: {reason}")
        return ""
    return name
