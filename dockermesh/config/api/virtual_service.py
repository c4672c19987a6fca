"""VirtualService: how requests and connections to a host are routed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from dockermesh.config.api.common import Percent, PortSelector, StringMatch
from dockermesh.config.fields import REQUIRED, Duration, Int32, UInt32


class UnmatchedPreflights(StrEnum):
    """What happens to a CORS preflight whose origin is not allowed."""

    UNSPECIFIED = "UNSPECIFIED"
    FORWARD = "FORWARD"
    IGNORE = "IGNORE"


class RedirectPortSelection(StrEnum):
    """How the port of a redirect is derived."""

    FROM_PROTOCOL_DEFAULT = "FROM_PROTOCOL_DEFAULT"
    FROM_REQUEST_PORT = "FROM_REQUEST_PORT"


@dataclass(frozen=True, slots=True)
class Destination:
    """A service, or a subset of it."""

    host: str = field(default="", metadata=REQUIRED)
    subset: str = ""
    port: PortSelector | None = None


@dataclass(frozen=True, slots=True)
class HeaderOperations:
    """Headers set, added and removed, in this order of YAML's maps."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Headers:
    """Header operations on the request and on the response."""

    request: HeaderOperations | None = None
    response: HeaderOperations | None = None


@dataclass(frozen=True, slots=True)
class HTTPRouteDestination:
    """A destination and its share of the requests."""

    destination: Destination | None = field(default=None, metadata=REQUIRED)
    # A share of the sum of all weights, which need not be 100.
    weight: Int32 = 0
    headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class RouteDestination:
    """A destination and its share of the connections."""

    destination: Destination | None = field(default=None, metadata=REQUIRED)
    weight: Int32 = 0


@dataclass(frozen=True, slots=True)
class HTTPMatchRequest:
    """Conditions on a request; all must hold."""

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    # An empty match asks only that the header is there.
    headers: Mapping[str, StringMatch] = field(default_factory=dict)
    port: UInt32 = 0
    source_labels: Mapping[str, str] = field(default_factory=dict)
    # `mesh` stands for the sidecars.
    gateways: tuple[str, ...] = ()
    query_params: Mapping[str, StringMatch] = field(default_factory=dict)
    ignore_uri_case: bool = False
    without_headers: Mapping[str, StringMatch] = field(default_factory=dict)
    source_namespace: str = ""
    stat_prefix: str = ""


@dataclass(frozen=True, slots=True)
class HTTPRedirect:
    """An answer that sends the client elsewhere."""

    ONEOFS: ClassVar = (("port", "derive_port"),)
    uri: str = ""
    authority: str = ""
    port: UInt32 | None = None
    derive_port: RedirectPortSelection | None = None
    scheme: str = ""
    prefix_rewrite: str = ""
    # 0 stands for 301.
    redirect_code: UInt32 = 0


@dataclass(frozen=True, slots=True)
class HTTPBody:
    """The body of a direct response; `bytes` is base64."""

    ONEOFS: ClassVar = (("string", "bytes"),)
    string: str | None = None
    bytes: str | None = None


@dataclass(frozen=True, slots=True)
class HTTPDirectResponse:
    """An answer given by the proxy itself."""

    status: UInt32 = field(default=0, metadata=REQUIRED)
    body: HTTPBody | None = None


@dataclass(frozen=True, slots=True)
class Delegate:
    """Another VirtualService (without hosts) that decides."""

    name: str = ""
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    """A substitution in the path."""

    match: str = ""
    # Groups are \1, \2 ..., as RE2 has them, not $1.
    rewrite: str = ""


@dataclass(frozen=True, slots=True)
class HTTPRewrite:
    """Changes of path and authority before forwarding."""

    uri: str = ""
    authority: str = ""
    uri_regex_rewrite: RegexRewrite | None = None


@dataclass(frozen=True, slots=True)
class HTTPRetry:
    """When and how often a request is tried again; None for `attempts` cannot be said, 0
    disables.
    """

    # How often again: the first attempt is not counted.
    attempts: Int32 = 0
    per_try_timeout: Duration | None = None
    retry_on: str = ""
    retry_remote_localities: bool | None = None
    retry_ignore_previous_hosts: bool | None = None
    backoff: Duration | None = None


@dataclass(frozen=True, slots=True)
class FaultDelay:
    """A share of requests is delayed."""

    ONEOFS: ClassVar = (("fixed_delay", "exponential_delay"),)
    fixed_delay: Duration | None = None
    # In the API, but never implemented: Istio refuses it.
    exponential_delay: Duration | None = None
    percentage: Percent | None = None


@dataclass(frozen=True, slots=True)
class FaultAbort:
    """A share of requests is answered with an error."""

    ONEOFS: ClassVar = (("http_status", "grpc_status", "http2_error"),)
    http_status: Int32 | None = None
    grpc_status: str | None = None
    # As `exponential_delay`: part of the API, refused by Istio.
    http2_error: str | None = None
    percentage: Percent | None = None


@dataclass(frozen=True, slots=True)
class HTTPFaultInjection:
    """Faults injected into a route."""

    delay: FaultDelay | None = None
    abort: FaultAbort | None = None


@dataclass(frozen=True, slots=True)
class HTTPMirrorPolicy:
    """A destination that gets copies of a share of the requests (None: all)."""

    destination: Destination | None = field(default=None, metadata=REQUIRED)
    percentage: Percent | None = None


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Cross-origin resource sharing."""

    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Duration | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: UnmatchedPreflights = UnmatchedPreflights.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class HTTPRoute:
    """A rule for requests; the first rule that matches decides."""

    name: str = ""
    match: tuple[HTTPMatchRequest, ...] = ()
    route: tuple[HTTPRouteDestination, ...] = ()
    redirect: HTTPRedirect | None = None
    direct_response: HTTPDirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: HTTPRewrite | None = None
    # None: a request may take as long as it takes.
    timeout: Duration | None = None
    retries: HTTPRetry | None = None
    fault: HTTPFaultInjection | None = None
    # The older form of `mirrors`, for one destination.
    mirror: Destination | None = None
    mirrors: tuple[HTTPMirrorPolicy, ...] = ()
    mirror_percentage: Percent | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers | None = None


@dataclass(frozen=True, slots=True)
class TLSMatchAttributes:
    """Conditions on a TLS connection; all must hold."""

    sni_hosts: tuple[str, ...] = field(default=(), metadata=REQUIRED)
    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_labels: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


@dataclass(frozen=True, slots=True)
class L4MatchAttributes:
    """Conditions on a TCP connection; all must hold."""

    destination_subnets: tuple[str, ...] = ()
    port: UInt32 = 0
    source_subnet: str = ""
    source_labels: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()
    source_namespace: str = ""


@dataclass(frozen=True, slots=True)
class TLSRoute:
    """A rule for TLS connections that are not terminated."""

    match: tuple[TLSMatchAttributes, ...] = field(default=(), metadata=REQUIRED)
    route: tuple[RouteDestination, ...] = ()


@dataclass(frozen=True, slots=True)
class TCPRoute:
    """A rule for TCP connections."""

    match: tuple[L4MatchAttributes, ...] = ()
    route: tuple[RouteDestination, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualService:
    """Routing of the traffic to `hosts`, on `gateways` (empty: `mesh`, the sidecars)."""

    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    http: tuple[HTTPRoute, ...] = ()
    tls: tuple[TLSRoute, ...] = ()
    tcp: tuple[TCPRoute, ...] = ()
    export_to: tuple[str, ...] = ()
