"""Active health checks, which Istio's API has no field for: an annotation of a DestinationRule, in
YAML or JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, ClassVar

from dockermesh.config.fields import Duration, Pattern, Range

ANNOTATION = "dockermesh.io/health-check"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """A GET request that must be answered with 200."""

    path: Annotated[
        str, Pattern(r"/[!-~]*", "must begin with / and have no spaces")
    ] = "/"
    host: str = ""


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """A connection that must be accepted."""


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """The question of grpc.health.v1 that must be answered with SERVING."""

    service_name: str = ""
    authority: str = ""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What every proxy asks every endpoint of the service, how often, and how many answers
    count.
    """

    ONEOFS: ClassVar = (("http", "tcp", "grpc"),)
    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    grpc: GrpcCheck | None = None
    interval: Duration = timedelta(seconds=5)
    timeout: Duration = timedelta(seconds=1)
    healthy_threshold: Annotated[int, Range(1, 1000)] = 2
    unhealthy_threshold: Annotated[int, Range(1, 1000)] = 3
