"""Messages that several kinds share: selectors, ports, string matches, locality."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from dockermesh.config.fields import REQUIRED, Length, Pattern, UInt32

_GROUP = Pattern(
    r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
    "a lower-case domain name, or empty",
)
_KIND = Pattern(
    r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
    "letters, digits and dashes, starting with a letter",
)
_NAMESPACE = Pattern(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a lower-case DNS label")


# In the order of their numbers.
GRPC_STATUSES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
"""The names of gRPC's status codes; a name's position is its number."""


@dataclass(frozen=True, slots=True)
class StringMatch:
    """How a text is compared: exactly, by prefix, or by an RE2 expression that must match all of
    it.
    """

    ONEOFS: ClassVar = (("exact", "prefix", "regex"),)
    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None


@dataclass(frozen=True, slots=True)
class Percent:
    """A share in percent, 0 to 100."""

    value: float = 0.0


@dataclass(frozen=True, slots=True)
class PortSelector:
    """A port by its number."""

    number: UInt32 = 0


@dataclass(frozen=True, slots=True)
class WorkloadSelector:
    """Workloads of networking kinds (Sidecar, EnvoyFilter, ServiceEntry), by labels."""

    labels: Annotated[
        Mapping[str, Annotated[str, Length(high=63)]], Length(high=256)
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """Workloads of security, telemetry and newer kinds, by labels."""

    match_labels: Annotated[
        Mapping[str, Annotated[str, Length(high=63)]], Length(high=4096)
    ] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PolicyTargetReference:
    """A resource that a policy is attached to."""

    group: Annotated[str, Length(high=253), _GROUP] = ""
    kind: Annotated[str, Length(low=1, high=63), _KIND] = field(
        default="", metadata=REQUIRED
    )
    name: Annotated[str, Length(low=1, high=253)] = field(default="", metadata=REQUIRED)
    # Part of the API, never allowed by the rules.
    namespace: Annotated[str, Length(high=63), _NAMESPACE] | None = None


@dataclass(frozen=True, slots=True)
class LocalityDistribute:
    """Weights of the localities that traffic from `source` goes to."""

    source: str = field(default="", metadata={"json": "from"})
    to: Mapping[str, UInt32] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalityFailover:
    """The region that takes over from region `source`."""

    source: str = field(default="", metadata={"json": "from"})
    to: str = ""


@dataclass(frozen=True, slots=True)
class LocalityLoadBalancerSetting:
    """How traffic is spread over, and fails over between, localities."""

    distribute: tuple[LocalityDistribute, ...] = ()
    failover: tuple[LocalityFailover, ...] = ()
    # Labels, `key` or `key=value`: endpoints that share more of them come first.
    failover_priority: tuple[str, ...] = ()
    # None: what the mesh says.
    enabled: bool | None = None
