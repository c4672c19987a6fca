"""Limits of connections and requests, and the ejection of failing endpoints.

Source of the defaults: Istio's DestinationRule reference and
`pilot/pkg/networking/core/cluster_traffic_policy.go`.
"""

from __future__ import annotations

from typing import Any

from envoy.config.cluster.v3 import (
    circuit_breaker_pb2,
    cluster_pb2,
    outlier_detection_pb2,
)
from envoy.config.core.v3 import address_pb2, socket_option_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import percent_pb2

from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    OutlierDetection,
    RetryBudget,
    TcpKeepalive,
)
from dockermesh.translate.envoy.packing import boolean, seconds, uint32

# As Istio writes it: the greatest number that the field holds.
_UNLIMITED = 2**32 - 1
_DEAD_AFTER_MS = 20_000
_IPPROTO_TCP, _TCP_USER_TIMEOUT = 6, 18  # of Linux, wherever this runs
_Thresholds = circuit_breaker_pb2.CircuitBreakers.Thresholds


def thresholds(
    pool: ConnectionPoolSettings | None = None, budget: RetryBudget | None = None
) -> Any:
    """The limits of a cluster; none where nothing sets them (Istio's default), so that Envoy's
    1,024 never applies.
    """
    limits = _Thresholds(
        max_connections=uint32(_UNLIMITED),
        max_pending_requests=uint32(_UNLIMITED),
        max_requests=uint32(_UNLIMITED),
        max_retries=uint32(_UNLIMITED),
        track_remaining=True,
    )
    if pool is not None:
        _limit(limits, pool)
    if budget is not None:
        _limit_retries(limits, budget)

    return circuit_breaker_pb2.CircuitBreakers(thresholds=[limits])


def _limit(limits: Any, pool: ConnectionPoolSettings) -> None:
    # They count in each proxy for itself: a service's own load is their sum over its clients.
    if pool.tcp is not None and pool.tcp.max_connections > 0:
        limits.max_connections.value = pool.tcp.max_connections

    http = pool.http
    if http is None:
        return
    # Whatever their names say, both hold for HTTP/1.1 and HTTP/2 (Istio's reference).
    for field, value in (
        (limits.max_pending_requests, http.http1_max_pending_requests),
        (limits.max_requests, http.http2_max_requests),
        (limits.max_retries, http.max_retries),
    ):
        if value > 0:
            field.value = value


def _limit_retries(limits: Any, budget: RetryBudget) -> None:
    # A budget takes the place of the fixed number.
    limits.ClearField("max_retries")
    # 20 % is Istio's default.
    percent = 20.0 if budget.percent is None else budget.percent
    limits.retry_budget.budget_percent.CopyFrom(percent_pb2.Percent(value=percent))
    if budget.min_retry_concurrency:
        limits.retry_budget.min_retry_concurrency.CopyFrom(
            uint32(budget.min_retry_concurrency)
        )


def set_connection(
    cluster: cluster_pb2.Cluster,
    pool: ConnectionPoolSettings | None,
    default_keepalive: TcpKeepalive | None,
) -> None:
    """Connect time-out and keep-alive probes."""
    tcp = pool.tcp if pool is not None else None
    if tcp is not None and tcp.connect_timeout is not None:
        cluster.connect_timeout.CopyFrom(seconds(tcp.connect_timeout.total_seconds()))
    keepalive = (tcp.tcp_keepalive if tcp is not None else None) or default_keepalive
    if keepalive is not None:
        cluster.upstream_connection_options.tcp_keepalive.CopyFrom(
            _keepalive(keepalive)
        )


def give_up_the_dead(cluster: cluster_pb2.Cluster) -> None:
    """Have a connection end whose other end has acknowledged nothing for so long.

    Requests share it, so one to a host that is gone would take all with it that are sent later, for
    the quarter of an hour that Linux goes on trying. A proxy that is merely busy or stopped
    acknowledges: its kernel does.
    """
    cluster.upstream_bind_config.socket_options.add(
        level=_IPPROTO_TCP,
        name=_TCP_USER_TIMEOUT,
        int_value=_DEAD_AFTER_MS,
        state=socket_option_pb2.SocketOption.STATE_PREBIND,
    )


def limit_connection(
    proxy: tcp_proxy_pb2.TcpProxy, pool: ConnectionPoolSettings | None
) -> None:
    """How long a connection may be silent, and last."""
    tcp = pool.tcp if pool is not None else None
    if tcp is not None and tcp.idle_timeout is not None:
        proxy.idle_timeout.CopyFrom(seconds(tcp.idle_timeout.total_seconds()))
    if tcp is not None and tcp.max_connection_duration is not None:
        proxy.max_downstream_connection_duration.CopyFrom(
            seconds(tcp.max_connection_duration.total_seconds())
        )


def _keepalive(wanted: TcpKeepalive) -> Any:
    probes = address_pb2.TcpKeepalive()
    if wanted.probes:
        probes.keepalive_probes.CopyFrom(uint32(wanted.probes))
    if wanted.time is not None:
        probes.keepalive_time.CopyFrom(uint32(int(wanted.time.total_seconds())))
    if wanted.interval is not None:
        probes.keepalive_interval.CopyFrom(uint32(int(wanted.interval.total_seconds())))
    return probes


def set_outlier_detection(
    cluster: cluster_pb2.Cluster, wanted: OutlierDetection | None
) -> None:
    """Eject endpoints that fail. Success-rate statistics stay off, as in Istio.

    One endpoint may always be ejected: by Envoy's default of 10 % a service with fewer than ten
    never loses any.
    """
    if wanted is None:
        return
    detection = outlier_detection_pb2.OutlierDetection(
        enforcing_success_rate=uint32(0),
        max_ejection_percent=uint32(wanted.max_ejection_percent or 10),
        always_eject_one_host=boolean(True),
        split_external_local_origin_errors=wanted.split_external_local_origin_errors,
    )
    _set_consecutive(detection, wanted)
    if wanted.interval is not None:
        detection.interval.CopyFrom(seconds(wanted.interval.total_seconds()))

    if wanted.base_ejection_time is not None:
        base = wanted.base_ejection_time.total_seconds()
        detection.base_ejection_time.CopyFrom(seconds(base))
        # Envoy refuses a base above its maximum, which is 300 s unless said otherwise.
        detection.max_ejection_time.CopyFrom(seconds(max(base, 300.0)))

    cluster.outlier_detection.CopyFrom(detection)
    # 0 unless the rule says otherwise: with Envoy's own 50, requests go to ejected endpoints again
    # once half of them are.
    cluster.common_lb_config.healthy_panic_threshold.value = float(
        wanted.min_health_percent
    )


def _set_consecutive(
    detection: outlier_detection_pb2.OutlierDetection, wanted: OutlierDetection
) -> None:
    # 0 turns a kind off, which Envoy says by the share of ejections that are enforced.
    if wanted.consecutive_5xx_errors is not None:
        detection.consecutive_5xx.CopyFrom(uint32(wanted.consecutive_5xx_errors))
        detection.enforcing_consecutive_5xx.CopyFrom(
            uint32(100 if wanted.consecutive_5xx_errors else 0)
        )

    if wanted.consecutive_gateway_errors is not None:
        detection.consecutive_gateway_failure.CopyFrom(
            uint32(wanted.consecutive_gateway_errors)
        )
        detection.enforcing_consecutive_gateway_failure.CopyFrom(
            uint32(100 if wanted.consecutive_gateway_errors else 0)
        )

    # Without the split, failures to connect count among the errors above.
    if (
        wanted.split_external_local_origin_errors
        and wanted.consecutive_local_origin_failures is not None
    ):
        detection.consecutive_local_origin_failure.CopyFrom(
            uint32(wanted.consecutive_local_origin_failures)
        )
        detection.enforcing_consecutive_local_origin_failure.CopyFrom(
            uint32(100 if wanted.consecutive_local_origin_failures else 0)
        )
