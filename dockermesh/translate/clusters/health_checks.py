"""Active health checks: every proxy asks the endpoints of a service itself, and leaves those that
do not answer.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import health_check_pb2

from dockermesh.config.api.health_check import HealthCheck
from dockermesh.translate.envoy.packing import seconds, uint32


def set_health_check(
    cluster: Any, wanted: HealthCheck, *, is_http: bool, is_http2: bool
) -> None:
    """Check the cluster's endpoints, beside what the registry says of them.

    Ports that do not speak what the check does are not checked; Envoy refuses a gRPC check without
    HTTP/2.
    """
    if (wanted.http is not None and not is_http) or (
        wanted.grpc is not None and not is_http2
    ):
        return
    interval = wanted.interval.total_seconds()
    made = health_check_pb2.HealthCheck(
        interval=seconds(interval),
        timeout=seconds(wanted.timeout.total_seconds()),
        healthy_threshold=uint32(wanted.healthy_threshold),
        unhealthy_threshold=uint32(wanted.unhealthy_threshold),
        # Spread over a fifth of the interval, so that many proxies do not ask at once.
        interval_jitter_percent=20,
        # An endpoint is asked at this rate before anybody needs it, too: a first request must not
        # meet unknown ones.
        no_traffic_interval=seconds(interval),
    )

    if wanted.http is not None:
        made.http_health_check.path = wanted.http.path
        made.http_health_check.host = wanted.http.host
    elif wanted.grpc is not None:
        made.grpc_health_check.service_name = wanted.grpc.service_name
        made.grpc_health_check.authority = wanted.grpc.authority
    else:
        made.tcp_health_check.SetInParent()

    cluster.health_checks.append(made)
    # What the registry has removed is gone, however well it answers.
    cluster.ignore_health_on_host_removal = True
