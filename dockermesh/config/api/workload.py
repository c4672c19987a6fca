"""WorkloadEntry and WorkloadGroup: workloads that no registry knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dockermesh.config.fields import REQUIRED, Int32, Length, Pattern, Range, UInt32

_PORT_NAME = Pattern(
    r"^[a-zA-Z0-9](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?$", "letters, digits and dashes"
)


@dataclass(frozen=True, slots=True)
class WorkloadEntry:
    """One workload: an address, the ports it maps and its labels."""

    address: Annotated[str, Length(high=256)] = ""
    ports: Annotated[
        Mapping[Annotated[str, Length(1, 63), _PORT_NAME], UInt32], Length(high=128)
    ] = field(default_factory=dict)
    labels: Annotated[Mapping[str, str], Length(high=256)] = field(default_factory=dict)
    # Endpoints of another network are reached through its gateways.
    network: Annotated[str, Length(high=2048)] = ""
    # region/zone/subzone.
    locality: Annotated[str, Length(high=2048)] = ""
    # 0 stands for 1.
    weight: UInt32 = 0
    service_account: Annotated[str, Length(high=253)] = ""


@dataclass(frozen=True, slots=True)
class HTTPHeader:
    """A header of a probe's request."""

    name: Annotated[str, Pattern(r"^[-_A-Za-z0-9]+$", "a header name")] = ""
    value: str = ""


@dataclass(frozen=True, slots=True)
class HTTPHealthCheck:
    """A probe by HTTP GET."""

    path: str = ""
    port: Annotated[int, Range(0, 65535)] = field(default=0, metadata=REQUIRED)
    host: str = ""
    scheme: str = ""
    http_headers: tuple[HTTPHeader, ...] = ()


@dataclass(frozen=True, slots=True)
class TCPHealthCheck:
    """A probe by connecting."""

    host: str = ""
    port: Annotated[int, Range(0, 65535)] = field(default=0, metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class GRPCHealthCheck:
    """A probe by gRPC's health service."""

    port: Annotated[int, Range(0, 65535)] = 0
    service: str = ""


@dataclass(frozen=True, slots=True)
class ExecHealthCheck:
    """A probe by a command."""

    command: tuple[Annotated[str, Length(low=1)], ...] = field(
        default=(), metadata=REQUIRED
    )


@dataclass(frozen=True, slots=True)
class ReadinessProbe:
    """When a workload is ready."""

    ONEOFS: ClassVar = (("http_get", "tcp_socket", "exec", "grpc"),)
    # The words and defaults are those of Kubernetes' probes; 0 is the default.
    initial_delay_seconds: Int32 = 0
    timeout_seconds: Int32 = 0
    period_seconds: Int32 = 0
    success_threshold: Int32 = 0
    failure_threshold: Int32 = 0
    http_get: HTTPHealthCheck | None = None
    tcp_socket: TCPHealthCheck | None = None
    exec: ExecHealthCheck | None = None
    grpc: GRPCHealthCheck | None = None


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """Labels and annotations of the entries of a group."""

    labels: Annotated[Mapping[str, str], Length(high=256)] = field(default_factory=dict)
    annotations: Annotated[Mapping[str, str], Length(high=256)] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class WorkloadGroup:
    """A template of WorkloadEntries."""

    metadata: ObjectMeta | None = None
    template: WorkloadEntry | None = field(default=None, metadata=REQUIRED)
    probe: ReadinessProbe | None = None
