"""How a cluster chooses an endpoint, and what a route hashes on when the choice is by consistent
hash.
"""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.type.v3 import percent_pb2

from dockermesh.config.api.destination_rule import (
    ConsistentHashLB,
    LoadBalancerSettings,
    SimpleLB,
    TrafficPolicy,
    WarmupConfiguration,
)
from dockermesh.translate.envoy.packing import seconds, uint64

_Hash = route_components_pb2.RouteAction.HashPolicy
_SIMPLE = {
    SimpleLB.RANDOM: cluster_pb2.Cluster.RANDOM,
    SimpleLB.ROUND_ROBIN: cluster_pb2.Cluster.ROUND_ROBIN,
}
# Istio's default, and what Envoy takes at most.
_RING_SIZE = 1024
_LARGEST_RING = 8 * 1024 * 1024
_WARMUP_PERCENT = 10.0


def is_passthrough(policy: TrafficPolicy) -> bool:
    """Whether connections go to the address that the client dialled."""
    return (
        policy.load_balancer is not None
        and policy.load_balancer.simple is SimpleLB.PASSTHROUGH
    )


def consistent_hash(policy: TrafficPolicy) -> ConsistentHashLB | None:
    """The hash that the policy balances by."""
    return (
        policy.load_balancer.consistent_hash
        if policy.load_balancer is not None
        else None
    )


def balance(
    cluster: cluster_pb2.Cluster, settings: LoadBalancerSettings | None
) -> None:
    """Set the algorithm; least-request where none is asked for, as in Istio."""
    cluster.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    if settings is None:
        return
    if settings.consistent_hash is not None:
        _balance_by_hash(cluster, settings.consistent_hash)
        return

    if settings.simple is not None:
        cluster.lb_policy = _SIMPLE.get(
            settings.simple, cluster_pb2.Cluster.LEAST_REQUEST
        )
    if settings.warmup is not None:
        _warm_up(cluster, settings.warmup)


def _balance_by_hash(cluster: cluster_pb2.Cluster, settings: ConsistentHashLB) -> None:
    if settings.maglev is not None:
        cluster.lb_policy = cluster_pb2.Cluster.MAGLEV
        if settings.maglev.table_size:
            cluster.maglev_lb_config.table_size.CopyFrom(
                uint64(settings.maglev.table_size)
            )
        return

    cluster.lb_policy = cluster_pb2.Cluster.RING_HASH
    wanted = (
        settings.ring_hash.minimum_ring_size if settings.ring_hash is not None else 0
    ) or _RING_SIZE
    # Envoy refuses a cluster with a larger ring.
    cluster.ring_hash_lb_config.minimum_ring_size.CopyFrom(
        uint64(min(wanted, _LARGEST_RING))
    )


def _warm_up(cluster: cluster_pb2.Cluster, warmup: WarmupConfiguration) -> None:
    if warmup.duration is None:
        return
    slow = cluster_pb2.Cluster.SlowStartConfig(
        slow_start_window=seconds(warmup.duration.total_seconds()),
        min_weight_percent=percent_pb2.Percent(
            value=_WARMUP_PERCENT
            if warmup.minimum_percent is None
            else warmup.minimum_percent
        ),
    )

    if warmup.aggression is not None:
        slow.aggression.CopyFrom(
            base_pb2.RuntimeDouble(
                default_value=warmup.aggression,
                runtime_key="dockermesh.warmup.aggression",
            )
        )

    # No other algorithm of Envoy's weighs an endpoint by how long it is there.
    if cluster.lb_policy == cluster_pb2.Cluster.ROUND_ROBIN:
        cluster.round_robin_lb_config.slow_start_config.CopyFrom(slow)
    elif cluster.lb_policy == cluster_pb2.Cluster.LEAST_REQUEST:
        cluster.least_request_lb_config.slow_start_config.CopyFrom(slow)


def hash_policy(
    settings: ConsistentHashLB | None,
) -> list[route_components_pb2.RouteAction.HashPolicy]:
    """What a route to such a cluster hashes on."""
    if settings is None:
        return []
    if settings.http_header_name:
        return [_Hash(header=_Hash.Header(header_name=settings.http_header_name))]

    if settings.http_cookie is not None:
        wanted = settings.http_cookie
        cookie = _Hash.Cookie(name=wanted.name, path=wanted.path)
        if wanted.ttl is not None:
            cookie.ttl.CopyFrom(seconds(wanted.ttl.total_seconds()))
        for attribute in wanted.attributes:
            cookie.attributes.add(name=attribute.name, value=attribute.value)
        return [_Hash(cookie=cookie)]

    if settings.http_query_parameter_name:
        return [
            _Hash(
                query_parameter=_Hash.QueryParameter(
                    name=settings.http_query_parameter_name
                )
            )
        ]

    if settings.use_source_ip:
        return [_Hash(connection_properties=_Hash.ConnectionProperties(source_ip=True))]
    return []
