"""Telemetry: metrics, traces and access logs of workloads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.fields import REQUIRED, Duration, Length, NonEmpty, Range


class WorkloadMode(StrEnum):
    """The side of a request that reports."""

    CLIENT_AND_SERVER = "CLIENT_AND_SERVER"
    CLIENT = "CLIENT"
    SERVER = "SERVER"

    def covers(self, side: WorkloadMode) -> bool:
        """Whether what is said of it is said of a side, CLIENT or SERVER."""
        return self in {WorkloadMode.CLIENT_AND_SERVER, side}


class IstioMetric(StrEnum):
    """Istio's standard metrics."""

    ALL_METRICS = "ALL_METRICS"
    REQUEST_COUNT = "REQUEST_COUNT"
    REQUEST_DURATION = "REQUEST_DURATION"
    REQUEST_SIZE = "REQUEST_SIZE"
    RESPONSE_SIZE = "RESPONSE_SIZE"
    TCP_OPENED_CONNECTIONS = "TCP_OPENED_CONNECTIONS"
    TCP_CLOSED_CONNECTIONS = "TCP_CLOSED_CONNECTIONS"
    TCP_SENT_BYTES = "TCP_SENT_BYTES"
    TCP_RECEIVED_BYTES = "TCP_RECEIVED_BYTES"
    GRPC_REQUEST_MESSAGES = "GRPC_REQUEST_MESSAGES"
    GRPC_RESPONSE_MESSAGES = "GRPC_RESPONSE_MESSAGES"


class TagOperation(StrEnum):
    """What is done to a dimension of a metric."""

    UPSERT = "UPSERT"
    REMOVE = "REMOVE"


@dataclass(frozen=True, slots=True)
class ProviderRef:
    """A provider, by its name in the mesh settings."""

    name: NonEmpty = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class LiteralTag:
    """A tag with a fixed value."""

    value: NonEmpty = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class EnvironmentTag:
    """A tag from an environment variable of the proxy."""

    name: NonEmpty = field(default="", metadata=REQUIRED)
    default_value: str = ""


@dataclass(frozen=True, slots=True)
class HeaderTag:
    """A tag from a request header."""

    name: NonEmpty = field(default="", metadata=REQUIRED)
    default_value: str = ""


@dataclass(frozen=True, slots=True)
class FormatterTag:
    """A tag from a format string of Envoy."""

    value: NonEmpty = field(default="", metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class CustomTag:
    """The source of a tag of a span."""

    ONEOFS: ClassVar = (("literal", "environment", "header", "formatter"),)
    literal: LiteralTag | None = None
    environment: EnvironmentTag | None = None
    header: HeaderTag | None = None
    formatter: FormatterTag | None = None


@dataclass(frozen=True, slots=True)
class TracingSelector:
    """The side of requests that is traced."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


@dataclass(frozen=True, slots=True)
class Tracing:
    """Settings of spans."""

    match: TracingSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    # None: what the mesh says. 0 is a choice: nothing is traced.
    random_sampling_percentage: Annotated[float, Range(0, 100)] | None = None
    disable_span_reporting: bool | None = None
    custom_tags: Mapping[str, CustomTag] = field(default_factory=dict)
    use_request_id_for_trace_sampling: bool | None = None
    enable_istio_tags: bool | None = None
    disable_context_propagation: bool | None = None


@dataclass(frozen=True, slots=True)
class MetricSelector:
    """The metric that an override is for."""

    ONEOFS: ClassVar = (("metric", "custom_metric"),)
    metric: IstioMetric | None = None
    custom_metric: NonEmpty | None = None
    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


@dataclass(frozen=True, slots=True)
class TagOverride:
    """A dimension that is changed or removed."""

    operation: TagOperation = TagOperation.UPSERT
    value: str = ""


@dataclass(frozen=True, slots=True)
class MetricsOverrides:
    """Changes of a metric."""

    match: MetricSelector | None = None
    disabled: bool | None = None
    tag_overrides: Mapping[str, TagOverride] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Metrics:
    """Settings of metrics."""

    providers: tuple[ProviderRef, ...] = ()
    overrides: tuple[MetricsOverrides, ...] = ()
    reporting_interval: Duration | None = None


@dataclass(frozen=True, slots=True)
class LogSelector:
    """The side of requests that is logged."""

    mode: WorkloadMode = WorkloadMode.CLIENT_AND_SERVER


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A CEL expression that a logged request fulfils."""

    # `response.code >= 400`; attributes are those of Envoy.
    expression: str = ""


@dataclass(frozen=True, slots=True)
class AccessLogging:
    """Settings of access logs."""

    match: LogSelector | None = None
    providers: tuple[ProviderRef, ...] = ()
    disabled: bool | None = None
    filter: LogFilter | None = None


@dataclass(frozen=True, slots=True)
class Telemetry:
    """Settings for the selected workloads (None: all of the namespace)."""

    ONEOFS: ClassVar = (("selector", "target_ref", "target_refs"),)
    selector: LabelSelector | None = None
    target_ref: PolicyTargetReference | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    tracing: tuple[Tracing, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    access_logging: tuple[AccessLogging, ...] = ()
