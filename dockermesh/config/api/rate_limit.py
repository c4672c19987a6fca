"""RateLimit: how many requests and connections a workload takes. A kind of ours; Istio has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from dockermesh.config.api.common import (
    LabelSelector,
    PolicyTargetReference,
    StringMatch,
)
from dockermesh.config.fields import REQUIRED, Length, UInt32

_Headers = Annotated[Mapping[str, StringMatch], Length(high=16)]
_Texts = Annotated[tuple[Annotated[str, Length(high=256)], ...], Length(high=16)]


class Mode(StrEnum):
    """Who counts."""

    # Each proxy for itself.
    LOCAL = "LOCAL"
    # All proxies together.
    GLOBAL = "GLOBAL"


class FailureMode(StrEnum):
    """What becomes of requests while nobody counts."""

    # They pass.
    OPEN = "OPEN"
    # They are answered 503, and connections are closed.
    CLOSED = "CLOSED"


class Unit(StrEnum):
    """The time in which so many requests may come."""

    SECOND = "SECOND"
    MINUTE = "MINUTE"
    HOUR = "HOUR"
    DAY = "DAY"


class Attribute(StrEnum):
    """What is known of every request, and may tell clients apart."""

    CLIENT_ADDRESS = "CLIENT_ADDRESS"
    # The SPIFFE id of the calling workload.
    IDENTITY = "IDENTITY"
    # Without its query.
    PATH = "PATH"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """By what requests are told apart: each value that comes is counted for itself."""

    ONEOFS: ClassVar = (("header", "claim", "attribute"),)
    header: Annotated[str, Length(high=256)] | None = None
    # Of a valid token (RequestAuthentication); a nested one with dots, `realm.team`.
    claim: Annotated[str, Length(high=256)] | None = None
    attribute: Attribute | None = None


@dataclass(frozen=True, slots=True)
class NamedValue:
    """A limit of its own for one value of each descriptor, in their order."""

    values: _Texts = field(default=(), metadata=REQUIRED)
    requests: UInt32 = field(default=0, metadata=REQUIRED)
    unit: Unit = Unit.SECOND
    # None: as many as `requests`.
    burst: UInt32 | None = None


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """Which requests count; of each list one value must hold."""

    # `shop.example` or `*.shop.example`, with any port.
    hosts: _Texts = ()
    # Templates: `*` and `{name}` are a segment, `**` any number of them.
    paths: _Texts = ()
    methods: _Texts = ()
    # All of them must be as said, or (`withoutHeaders`) must not; `{}` is any value.
    headers: _Headers = field(default_factory=dict)
    without_headers: _Headers = field(default_factory=dict)
    # At gateways: routes of VirtualServices by their name.
    routes: _Texts = ()


@dataclass(frozen=True, slots=True)
class LimitResponse:
    """The answer to a request that is refused."""

    status: UInt32 = 429
    # None: Envoy's own text.
    body: Annotated[str, Length(high=4096)] | None = None
    # x-ratelimit-limit, -remaining and -reset on every answer.
    quota_headers: bool = True


@dataclass(frozen=True, slots=True)
class Limit:
    """So many requests in a unit of time, and so many at once."""

    name: Annotated[str, Length(high=63)] = field(default="", metadata=REQUIRED)
    requests: UInt32 = field(default=0, metadata=REQUIRED)
    unit: Unit = Unit.SECOND
    # None: as many as `requests`.
    burst: UInt32 | None = None
    match: RequestMatch | None = None
    by: Annotated[tuple[Descriptor, ...], Length(high=4)] = ()
    named: Annotated[tuple[NamedValue, ...], Length(high=256)] = ()
    response: LimitResponse | None = None


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """How many connections are open to a port, and how many are opened in a second; None: any
    number.
    """

    max: UInt32 | None = None
    per_second: UInt32 | None = None
    # None: as many as `perSecond`.
    burst: UInt32 | None = None


@dataclass(frozen=True, slots=True)
class RateLimit:
    """Limits of the selected workloads (None: all of the namespace)."""

    ONEOFS: ClassVar = (("selector", "target_refs"),)
    selector: LabelSelector | None = None
    target_refs: Annotated[tuple[PolicyTargetReference, ...], Length(high=16)] = ()
    mode: Mode = Mode.LOCAL
    # Of GLOBAL: while the limiter cannot be asked.
    failure_mode: FailureMode = FailureMode.OPEN
    # Counts what it would refuse, and refuses nothing.
    shadow: bool = False
    limits: Annotated[tuple[Limit, ...], Length(high=16)] = ()
    connections: ConnectionLimits | None = None
