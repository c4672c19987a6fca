"""Istio's standard metrics of one proxy, made by Envoy's access logger for statistics.

All loggers name one scope, which a listener of the bootstrap holds open: what was counted stays
whatever is replaced. The scope takes a bounded number of series, and forgets those that nothing
counts in any more, so no traffic can make a proxy grow without end; what it takes no more is in
`dockermesh_requests_total`, which has no label but the reporter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.data.accesslog.v3 import accesslog_pb2 as data_pb2
from xds.core.v3 import extension_pb2
from xds.type.matcher.v3 import matcher_pb2

from dockermesh.config.api.telemetry import IstioMetric, WorkloadMode
from dockermesh.translate.envoy.newer_protos import (
    Scope,
    StatsLogger,
    StatTagValueInput,
    TransformStat,
)
from dockermesh.translate.envoy.packing import pack, uint32, uint64
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.telemetry.access_logs import of_types
from dockermesh.translate.telemetry.metric_labels import (
    FEW,
    HTTP_LABELS,
    TCP_LABELS,
    Labels,
    client_labels,
    server_labels,
)
from dockermesh.translate.telemetry.metric_merging import (
    NAMES,
    NO_CHANGE,
    PROMETHEUS,
    Change,
    Changes,
    changes,
)
from dockermesh.translate.telemetry.selection import Levels
from dockermesh.xds.protobuf import serialised

NAMESPACE = "wasmcustom"
"""What Envoy leaves out before a metric's name, where it would put `envoy_`, if it has a module in
WebAssembly; that of the bootstrap does nothing else.
"""
_SHARED, _TOTALS = "istio", "totals"
"""Scopes by the names under which all loggers of a proxy share them."""
MOST_COUNTERS, _MOST_HISTOGRAMS = 4000, 3000
"""What the scope of a proxy takes."""
_MILLISECONDS, _BYTES = 3, 1

_COUNTED = {
    IstioMetric.TCP_OPENED_CONNECTIONS: "",
    IstioMetric.TCP_CLOSED_CONNECTIONS: "",
    IstioMetric.TCP_SENT_BYTES: "%BYTES_SENT%",
    IstioMetric.TCP_RECEIVED_BYTES: "%BYTES_RECEIVED%",
    IstioMetric.REQUEST_COUNT: "",
}
"""What is added to counters; 1 where nothing is named."""
_MEASURED = {
    IstioMetric.REQUEST_DURATION: (_MILLISECONDS, "%DURATION%"),
    IstioMetric.REQUEST_SIZE: (_BYTES, "%DOWNSTREAM_WIRE_BYTES_RECEIVED%"),
    IstioMetric.RESPONSE_SIZE: (_BYTES, "%DOWNSTREAM_WIRE_BYTES_SENT%"),
}
MOST_HISTOGRAM_SETS = _MOST_HISTOGRAMS // len(_MEASURED)
"""For how many sets of labels there are histograms; each has one of each kind."""
_AT_CLOSE = (
    IstioMetric.TCP_CLOSED_CONNECTIONS,
    IstioMetric.TCP_SENT_BYTES,
    IstioMetric.TCP_RECEIVED_BYTES,
)


class _Side(Enum):
    """Who reports, and whom it knows."""

    CLIENT = auto()
    SERVER_MTLS = auto()
    SERVER_PLAIN = auto()


_LABELS: Mapping[_Side, Labels] = {
    _Side.CLIENT: client_labels(),
    _Side.SERVER_MTLS: server_labels(is_mtls=True),
    _Side.SERVER_PLAIN: server_labels(is_mtls=False),
}


@dataclass(frozen=True, slots=True)
class Meters:
    """The loggers of requests and of connections, serialised."""

    of_requests: tuple[bytes, ...] = ()
    of_connections: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.of_requests or self.of_connections)


NO_METERS = Meters()


@dataclass(frozen=True, slots=True)
class Metrics:
    """What a proxy measures, as client and as server, there by how it was called. It is a key:
    proxies with equal ones share their listeners.
    """

    client: Meters = NO_METERS
    server_mtls: Meters = NO_METERS
    server_plain: Meters = NO_METERS


NO_METRICS = Metrics()


def metrics(levels: Levels, settings: MeshSettings) -> Metrics:
    """The metrics that follow from the Telemetry resources for a proxy, the widest first."""
    listed = [resource.spec.metrics for resource in levels]
    known = known_makers(settings)
    defaults = settings.metric_providers
    client = changes(listed, defaults, known, WorkloadMode.CLIENT)
    server = changes(listed, defaults, known, WorkloadMode.SERVER)
    return Metrics(
        _meters(_key(client), _Side.CLIENT),
        _meters(_key(server), _Side.SERVER_MTLS),
        _meters(_key(server), _Side.SERVER_PLAIN),
    )


def known_makers(settings: MeshSettings) -> frozenset[str]:
    """The names, without case, of what makes metrics."""
    listed = (
        p.name.casefold()
        for p in settings.extension_providers
        if p.prometheus is not None
    )
    return frozenset({PROMETHEUS, *listed})


_Key = tuple[tuple[IstioMetric, Change], ...] | None


def _key(found: Changes | None) -> _Key:
    return tuple(sorted(found.items())) if found is not None else None


@cache
def _meters(key: _Key, side: _Side) -> Meters:
    """The loggers of one side. Kept: most proxies of most meshes have the default ones."""
    if key is None:
        return NO_METERS
    made = _Maker(dict(key), _LABELS[side])
    return Meters(tuple(made.requests()), tuple(made.connections()))


@dataclass(frozen=True, slots=True)
class _Maker:
    changes: Changes
    labels: Labels

    def requests(self) -> Iterator[bytes]:
        """The loggers of an HTTP connection manager."""
        labels = {**self.labels, **HTTP_LABELS}
        config = self._config((IstioMetric.REQUEST_COUNT, *_MEASURED), labels)
        if config.counters or config.histograms:
            yield _logger(config)
            yield _logger(_total(self.labels["reporter"]))

    def connections(self) -> Iterator[bytes]:
        """The loggers of a TCP proxy."""
        labels = {**self.labels, **TCP_LABELS}
        opened = self._config((IstioMetric.TCP_OPENED_CONNECTIONS,), labels)
        if opened.counters:
            yield _logger(opened, data_pb2.TcpUpstreamConnected)
        closed = self._config(_AT_CLOSE, labels)
        if closed.counters:
            yield _logger(closed, data_pb2.TcpConnectionEnd)

    def _config(self, wanted: Iterable[IstioMetric], labels: Labels) -> Any:
        config = StatsLogger(stats_scope=_scope())
        for metric in wanted:
            change = self.changes.get(metric, NO_CHANGE)
            if change.is_off:
                continue
            if metric in _MEASURED:
                few = {name: labels[name] for name in FEW}
                unit, value = _MEASURED[metric]
                config.histograms.append(
                    StatsLogger.Histogram(
                        stat=_stat(metric, few, change), unit=unit, value_format=value
                    )
                )
                continue
            counter = config.counters.add(stat=_stat(metric, labels, change))
            if value_format := _COUNTED[metric]:
                counter.value_format = value_format
            else:
                counter.value_fixed.CopyFrom(uint64(1))
        return config


def _stat(metric: IstioMetric, labels: Labels, change: Change) -> Any:
    made = StatsLogger.Stat(name=NAMES[metric])
    for name, value in sorted(_changed(labels, change).items()):
        tag = made.tags.add(name=name, value_format=value)
        if name == "request_protocol" and value == HTTP_LABELS[name]:
            tag.rules.CopyFrom(_protocol_of_content())
    return made


def _changed(labels: Labels, change: Change) -> Labels:
    found = dict(labels)
    for name, expression in change.labels:
        if expression is None:
            found.pop(name, None)
        else:
            found[name] = f"%CEL({expression})%"
    return found


@cache
def _protocol_of_content() -> Any:
    """`grpc` where the content says so, else `http`."""
    matcher = matcher_pb2.Matcher()
    made = matcher.matcher_list.matchers.add()
    single = made.predicate.single_predicate
    single.input.name = "value"
    single.input.typed_config.CopyFrom(pack(StatTagValueInput()))
    single.value_match.prefix = "application/grpc"
    made.on_match.action.CopyFrom(_becomes("grpc"))
    matcher.on_no_match.action.CopyFrom(_becomes("http"))
    return matcher


def _becomes(value: str) -> Any:
    update = TransformStat(update_tag={"new_tag_value": value})
    return extension_pb2.TypedExtensionConfig(name=value, typed_config=pack(update))


def _scope() -> Any:
    return Scope(
        prefix=NAMESPACE,
        sharing_name=_SHARED,
        max_counters=uint32(MOST_COUNTERS),
        max_histograms=uint32(_MOST_HISTOGRAMS),
        enable_eviction=True,
    )


def _total(reporter: str) -> Any:
    """All requests, also those that the scope has no room for."""
    config = StatsLogger(stats_scope=Scope(prefix=NAMESPACE, sharing_name=_TOTALS))
    stat = StatsLogger.Stat(name="dockermesh_requests_total")
    stat.tags.add(name="reporter", value_format=reporter)
    config.counters.add(stat=stat).value_fixed.CopyFrom(uint64(1))
    return config


def _logger(config: Any, *types: Any) -> bytes:
    message = accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stats", typed_config=pack(config)
    )
    if types:
        message.filter.CopyFrom(of_types(*types))
    return serialised(message)
