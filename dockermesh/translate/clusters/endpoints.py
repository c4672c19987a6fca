"""Endpoints of a cluster: which of a service's replicas it uses, by locality and priority."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2, health_check_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from dockermesh.config.api.common import LocalityLoadBalancerSetting
from dockermesh.config.api.destination_rule import TrafficPolicy
from dockermesh.model import Endpoint, Health, Port, Service
from dockermesh.translate.clusters.locality import LocalityPlan, plan_localities
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.packing import uint32
from dockermesh.translate.envoy.workload_metadata import describe_workload
from dockermesh.translate.tls import mesh_tls

_HEALTH = {
    Health.HEALTHY: health_check_pb2.HEALTHY,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
    Health.DRAINING: health_check_pb2.DRAINING,
}


def serving(
    service: Service, port: Port, labels: Mapping[str, str] | None = None
) -> list[Endpoint]:
    """The endpoints that answer on this port and carry at least these labels."""
    wanted = (labels or {}).items()
    return [
        e
        for e in service.endpoints
        if (e.service_port or e.port) == port.number
        and all(e.labels.get(k) == v for k, v in wanted)
    ]


def locality_setting(
    policy: TrafficPolicy, default: LocalityLoadBalancerSetting | None
) -> LocalityLoadBalancerSetting | None:
    """What decides between localities; None if nothing does.

    Failover needs outlier detection: without it an endpoint that fails would never be left.
    """
    own = (
        policy.load_balancer.locality_lb_setting
        if policy.load_balancer is not None
        else None
    )
    setting = own if own is not None else default
    if setting is None:
        setting = LocalityLoadBalancerSetting()
    if setting.enabled is False:
        return None
    # Weights work at any time, an order of failover only while failures are noticed.
    if setting.distribute or policy.outlier_detection is not None:
        return setting

    return None


def load_assignment(
    name: str,
    endpoints: Iterable[Endpoint],
    *,
    locality: str = "",
    labels: Mapping[str, str] | None = None,
    setting: LocalityLoadBalancerSetting | None = None,
) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of a cluster, grouped by locality, as a proxy in `locality` with `labels` is to
    use them.

    Healthy endpoints get the traffic. Where there is none, all are tried: a request that waits for
    a restarting replica is better than one refused (Consul's view is late by then, the proxy's own
    is not).
    """
    listed = list(endpoints)
    is_hopeless = not any(e.health is Health.HEALTHY for e in listed)
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    for group in plan_localities(listed, locality, labels or {}, setting):
        assignment.endpoints.append(_group(group, ignore_health=is_hopeless))

    return assignment


def _group(
    group: LocalityPlan, *, ignore_health: bool
) -> endpoint_components_pb2.LocalityLbEndpoints:
    # Envoy refuses 0, and the sum must fit the field.
    weight = group.weight or min(
        max(1, sum(e.weight for e in group.members)), 2**32 - 1
    )
    return endpoint_components_pb2.LocalityLbEndpoints(
        locality=_locality(group.locality),
        lb_endpoints=[
            _lb_endpoint(e, ignore_health=ignore_health) for e in group.members
        ],
        load_balancing_weight=uint32(weight),
        priority=group.priority,
    )


def _locality(text: str) -> base_pb2.Locality | None:
    if not text:
        return None
    region, _, rest = text.partition("/")
    zone, _, sub_zone = rest.partition("/")
    return base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone)


def _lb_endpoint(
    endpoint: Endpoint, *, ignore_health: bool
) -> endpoint_components_pb2.LbEndpoint:
    made = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(
            address=socket_address(endpoint.address, endpoint.port)
        ),
        # UNKNOWN counts as healthy, and leaves it to the proxy's own checks to say otherwise.
        health_status=health_check_pb2.UNKNOWN
        if ignore_health
        else _HEALTH[endpoint.health],
        metadata=mesh_tls.endpoint_metadata() if endpoint.takes_mtls else None,
        load_balancing_weight=uint32(max(1, endpoint.weight)),
    )
    describe_workload(made.metadata, endpoint)
    return made
