"""DestinationRule: what applies to traffic after routing, and the subsets of a service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Annotated, ClassVar

from dockermesh.config.api.common import (
    LabelSelector,
    LocalityFailover,
    LocalityLoadBalancerSetting,
    PortSelector,
)
from dockermesh.config.fields import (
    REQUIRED,
    Duration,
    Int32,
    Length,
    Range,
    UInt32,
    UInt64,
)


class SimpleLB(StrEnum):
    """A load-balancing algorithm without settings."""

    # LEAST_REQUEST, as in Istio since 1.14.
    UNSPECIFIED = "UNSPECIFIED"
    RANDOM = "RANDOM"
    # To the address that the app connected to, without any balancing.
    PASSTHROUGH = "PASSTHROUGH"
    ROUND_ROBIN = "ROUND_ROBIN"
    LEAST_REQUEST = "LEAST_REQUEST"


class ClientTlsMode(StrEnum):
    """How the connection to the service is secured."""

    DISABLE = "DISABLE"
    SIMPLE = "SIMPLE"
    MUTUAL = "MUTUAL"
    ISTIO_MUTUAL = "ISTIO_MUTUAL"


class H2UpgradePolicy(StrEnum):
    """Whether HTTP/1.1 is upgraded to HTTP/2."""

    DEFAULT = "DEFAULT"
    DO_NOT_UPGRADE = "DO_NOT_UPGRADE"
    # Even where the server did not say that it speaks HTTP/2.
    UPGRADE = "UPGRADE"


class ProxyProtocolVersion(StrEnum):
    """A version of HAProxy's PROXY protocol."""

    # A line of text; V2 is binary.
    V1 = "V1"
    V2 = "V2"


@dataclass(frozen=True, slots=True)
class RingHash:
    """Consistent hashing by a ring of virtual nodes; 0 is the default of 1024."""

    minimum_ring_size: UInt64 = 0


@dataclass(frozen=True, slots=True)
class Maglev:
    """Consistent hashing by Maglev's table; None is the default of 65537."""

    table_size: UInt64 | None = None


@dataclass(frozen=True, slots=True)
class HTTPCookieAttribute:
    """A further attribute of a generated cookie."""

    name: str = field(default="", metadata=REQUIRED)
    value: str = ""


@dataclass(frozen=True, slots=True)
class HTTPCookie:
    """The cookie hashed on; it is generated when `ttl` is set."""

    name: str = field(default="", metadata=REQUIRED)
    path: str = ""
    # 0s makes a cookie of the session.
    ttl: timedelta | None = None
    attributes: tuple[HTTPCookieAttribute, ...] = ()


@dataclass(frozen=True, slots=True)
class ConsistentHashLB:
    """Session affinity by hashing an attribute of the request."""

    ONEOFS: ClassVar = (
        (
            "http_header_name",
            "http_cookie",
            "use_source_ip",
            "http_query_parameter_name",
        ),
        ("ring_hash", "maglev"),
    )
    http_header_name: str | None = None
    http_cookie: HTTPCookie | None = None
    use_source_ip: bool | None = None
    http_query_parameter_name: str | None = None
    ring_hash: RingHash | None = None
    maglev: Maglev | None = None


@dataclass(frozen=True, slots=True)
class WarmupConfiguration:
    """How long and how steeply a new endpoint is warmed up."""

    duration: Duration | None = field(default=None, metadata=REQUIRED)
    # None: 10 %.
    minimum_percent: Annotated[float, Range(0, 100)] | None = None
    # None: 1, a straight line.
    aggression: Annotated[float, Range(1, float("inf"))] | None = None


@dataclass(frozen=True, slots=True)
class ZoneAwareLbSetting:
    """Zone-aware routing within the local region, with failover between groups of endpoints."""

    enabled: bool | None = None
    failover: tuple[LocalityFailover, ...] = ()
    failover_priority: tuple[str, ...] = ()
    min_cluster_size: UInt32 | None = None


@dataclass(frozen=True, slots=True)
class LoadBalancerSettings:
    """How an endpoint is chosen."""

    ONEOFS: ClassVar = (("simple", "consistent_hash"),)
    simple: SimpleLB | None = None
    consistent_hash: ConsistentHashLB | None = None
    locality_lb_setting: LocalityLoadBalancerSetting | None = None
    zone_aware_lb_setting: ZoneAwareLbSetting | None = None
    warmup: WarmupConfiguration | None = None


@dataclass(frozen=True, slots=True)
class TcpKeepalive:
    """Keep-alive probes of the operating system."""

    probes: UInt32 = 0
    time: Duration | None = None
    interval: Duration | None = None


@dataclass(frozen=True, slots=True)
class TCPSettings:
    """Limits of connections."""

    # 0 stands for no limit: Envoy has 1024 unless it is told otherwise, Istio tells it.
    max_connections: Int32 = 0
    connect_timeout: Duration | None = None
    tcp_keepalive: TcpKeepalive | None = None
    max_connection_duration: Duration | None = None
    idle_timeout: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Http2KeepAlive:
    """HTTP/2 PINGs on idle connections to the service."""

    interval: Duration | None = None
    timeout: Duration | None = None


@dataclass(frozen=True, slots=True)
class HTTPSettings:
    """Limits of requests; 0 means unset."""

    http1_max_pending_requests: Int32 = 0
    http2_max_requests: Int32 = 0
    # 1 switches keep-alive off.
    max_requests_per_connection: Int32 = 0
    max_retries: Int32 = 0
    idle_timeout: Duration | None = None
    h2_upgrade_policy: H2UpgradePolicy = H2UpgradePolicy.DEFAULT
    use_client_protocol: bool = False
    max_concurrent_streams: Int32 = 0
    http2_keep_alive: Http2KeepAlive | None = None


@dataclass(frozen=True, slots=True)
class ConnectionPoolSettings:
    """Circuit breaking by limits, per client proxy."""

    tcp: TCPSettings | None = None
    http: HTTPSettings | None = None


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Circuit breaking by ejecting endpoints that fail; None means the default."""

    # Apart, a refused connection is not counted as an answer of 5xx.
    split_external_local_origin_errors: bool = False
    consecutive_local_origin_failures: UInt32 | None = None
    consecutive_gateway_errors: UInt32 | None = None
    consecutive_5xx_errors: UInt32 | None = None
    interval: Duration | None = None
    base_ejection_time: Duration | None = None
    # 0 stands for 10.
    max_ejection_percent: Int32 = 0
    # Below it, nothing is ejected any more.
    min_health_percent: Int32 = 0


@dataclass(frozen=True, slots=True)
class ClientTlsSettings:
    """TLS of the connection to the service."""

    # The zero value of the API; what has no `tls` at all follows the mesh.
    mode: ClientTlsMode = ClientTlsMode.DISABLE
    client_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    # Empty: for SIMPLE and MUTUAL the host that is called.
    sni: str = ""
    # None: verified, if there is something to verify with.
    insecure_skip_verify: bool | None = None
    ca_crl: str = ""


@dataclass(frozen=True, slots=True)
class TunnelSettings:
    """TCP tunnelled through HTTP."""

    protocol: str = ""
    target_host: str = field(default="", metadata=REQUIRED)
    target_port: UInt32 = field(default=0, metadata=REQUIRED)


@dataclass(frozen=True, slots=True)
class ProxyProtocol:
    """The PROXY protocol towards the service."""

    version: ProxyProtocolVersion = ProxyProtocolVersion.V1


@dataclass(frozen=True, slots=True)
class RetryBudget:
    """A limit of retries in percent of the active requests."""

    percent: Annotated[float, Range(0, 100)] | None = None
    min_retry_concurrency: UInt32 = 0
    budget_interval: timedelta | None = None


@dataclass(frozen=True, slots=True)
class PortTrafficPolicy:
    """The policy of one port; it replaces the whole policy, field by field nothing is inherited."""

    port: PortSelector | None = None
    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTlsSettings | None = None


@dataclass(frozen=True, slots=True)
class TrafficPolicy:
    """What applies to all ports of a service, or of a subset."""

    load_balancer: LoadBalancerSettings | None = None
    connection_pool: ConnectionPoolSettings | None = None
    outlier_detection: OutlierDetection | None = None
    tls: ClientTlsSettings | None = None
    # A port inherits nothing: what its settings leave out is the default again.
    port_level_settings: Annotated[
        tuple[PortTrafficPolicy, ...], Length(high=4096)
    ] = ()
    tunnel: TunnelSettings | None = None
    proxy_protocol: ProxyProtocol | None = None
    # In the API for the whole policy only, not for ports.
    retry_budget: RetryBudget | None = None


@dataclass(frozen=True, slots=True)
class Subset:
    """The endpoints of the service that carry at least `labels`."""

    name: str = field(default="", metadata=REQUIRED)
    labels: Mapping[str, str] = field(default_factory=dict)
    traffic_policy: TrafficPolicy | None = None


@dataclass(frozen=True, slots=True)
class DestinationRule:
    """Policy and subsets of the service `host`."""

    host: str = field(default="", metadata=REQUIRED)
    traffic_policy: TrafficPolicy | None = None
    subsets: tuple[Subset, ...] = ()
    export_to: tuple[str, ...] = ()
    workload_selector: LabelSelector | None = None
