"""Clusters and endpoints: where a proxy may send to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.v3 import percent_pb2

from dockermesh.model import Endpoint, Health, Port, Service
from dockermesh.translate import names
from dockermesh.translate.http import ads, pack, seconds, uint32

_UNLIMITED = 2**32 - 1
_HEALTH = {
    Health.HEALTHY: health_check_pb2.HEALTHY,
    Health.UNHEALTHY: health_check_pb2.UNHEALTHY,
    Health.DRAINING: health_check_pb2.DRAINING,
}
INBOUND_SOURCE = "127.0.0.6"
"""Source address of connections from the inbound listener to the app: capture rules let it pass (Istio's)."""


def socket_address(address: str, port: int) -> address_pb2.Address:
    """A TCP address."""
    return address_pb2.Address(socket_address=address_pb2.SocketAddress(address=address, port_value=port))


def _thresholds() -> circuit_breaker_pb2.CircuitBreakers:
    """No limits unless a DestinationRule sets them (Istio's defaults)."""
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=uint32(_UNLIMITED),
                max_pending_requests=uint32(_UNLIMITED),
                max_requests=uint32(_UNLIMITED),
                max_retries=uint32(_UNLIMITED),
                track_remaining=True,
            )
        ]
    )


def _http2_options() -> Any:
    explicit = http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions()
    )
    return pack(http_protocol_options_pb2.HttpProtocolOptions(explicit_http_config=explicit))


def _downstream_protocol_options() -> Any:
    use = http_protocol_options_pb2.HttpProtocolOptions.UseDownstreamHttpConfig(
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(),
        http2_protocol_options=protocol_pb2.Http2ProtocolOptions(),
    )
    return pack(http_protocol_options_pb2.HttpProtocolOptions(use_downstream_protocol_config=use))


_OPTIONS_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _set_protocol(cluster: cluster_pb2.Cluster, port: Port) -> None:
    if port.protocol.is_http2:
        cluster.typed_extension_protocol_options[_OPTIONS_KEY].CopyFrom(_http2_options())
    elif not port.protocol.is_http:
        # A sniffed port carries what its clients speak.
        cluster.typed_extension_protocol_options[_OPTIONS_KEY].CopyFrom(_downstream_protocol_options())


def service_cluster(service: Service, port: Port) -> cluster_pb2.Cluster:
    """The cluster of one port of a service: least-request balancing over endpoints from EDS."""
    cluster = cluster_pb2.Cluster(
        name=names.outbound_cluster(service.hostname, port.number),
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads()),
        connect_timeout=seconds(10),
        lb_policy=cluster_pb2.Cluster.LEAST_REQUEST,
        circuit_breakers=_thresholds(),
        # Which endpoints may be used is decided in the assignment; Envoy must not second-guess it.
        common_lb_config=cluster_pb2.Cluster.CommonLbConfig(healthy_panic_threshold=percent_pb2.Percent(value=0)),
    )
    _set_protocol(cluster, port)
    return cluster


def load_assignment(service: Service, port: Port) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of one port, grouped by locality.

    Healthy endpoints get the traffic. Where there is none, all are tried: a request that waits for a restarting
    replica is better than one refused (Consul's view is late by then, the proxy's own is not).
    """
    serving = [e for e in service.endpoints if (e.service_port or e.port) == port.number]
    is_hopeless = not any(e.health is Health.HEALTHY for e in serving)
    assignment = endpoint_pb2.ClusterLoadAssignment(cluster_name=names.outbound_cluster(service.hostname, port.number))
    localities: dict[str, list[Endpoint]] = {}
    for endpoint in serving:
        localities.setdefault(endpoint.locality, []).append(endpoint)
    for locality in sorted(localities):
        members = localities[locality]
        assignment.endpoints.append(
            endpoint_components_pb2.LocalityLbEndpoints(
                locality=_locality(locality),
                lb_endpoints=[_lb_endpoint(e, ignore_health=is_hopeless) for e in members],
                load_balancing_weight=uint32(max(1, sum(e.weight for e in members))),
            )
        )
    return assignment


def _locality(text: str) -> base_pb2.Locality | None:
    if not text:
        return None
    region, _, rest = text.partition("/")
    zone, _, sub_zone = rest.partition("/")
    return base_pb2.Locality(region=region, zone=zone, sub_zone=sub_zone)


def _lb_endpoint(endpoint: Endpoint, *, ignore_health: bool) -> endpoint_components_pb2.LbEndpoint:
    return endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=socket_address(endpoint.address, endpoint.port)),
        health_status=health_check_pb2.UNKNOWN if ignore_health else _HEALTH[endpoint.health],
        load_balancing_weight=uint32(max(1, endpoint.weight)),
    )


def original_destination(name: str, *, bind_source: bool = False) -> cluster_pb2.Cluster:
    """A cluster that forwards to the address which the client dialled."""
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=seconds(10),
        circuit_breakers=_thresholds(),
        typed_extension_protocol_options={_OPTIONS_KEY: _downstream_protocol_options()},
    )
    if bind_source:
        cluster.upstream_bind_config.source_address.CopyFrom(
            address_pb2.SocketAddress(address=INBOUND_SOURCE, port_value=0)
        )
    return cluster


def inbound_cluster(port: int, *, is_http: bool, is_http2: bool) -> cluster_pb2.Cluster:
    """The app itself, on the address that the client dialled: no address of the replica is in the resource."""
    cluster = original_destination(names.inbound_cluster(port), bind_source=True)
    # The app is beside the proxy: it accepts at once or not at all.
    cluster.connect_timeout.CopyFrom(seconds(1))
    if is_http2:
        cluster.typed_extension_protocol_options[_OPTIONS_KEY].CopyFrom(_http2_options())
    elif is_http:
        del cluster.typed_extension_protocol_options[_OPTIONS_KEY]
    return cluster


def black_hole() -> cluster_pb2.Cluster:
    """A cluster without endpoints: what may not be reached."""
    return cluster_pb2.Cluster(
        name=names.BLACK_HOLE_CLUSTER, type=cluster_pb2.Cluster.STATIC, connect_timeout=seconds(10)
    )


def dns_upstream() -> cluster_pb2.Cluster:
    """Docker's resolver, for DNS over TCP (Envoy's DNS filter answers UDP alone)."""
    name = names.DNS_CLUSTER
    return cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=seconds(2),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint_components_pb2.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint_components_pb2.LbEndpoint(
                            endpoint=endpoint_components_pb2.Endpoint(address=socket_address("127.0.0.11", 53))
                        )
                    ]
                )
            ],
        ),
    )


def ports_of(service: Service) -> Iterable[Port]:
    """The ports that have clusters: UDP has none, the mesh does not carry it."""
    return (port for port in service.ports if port.protocol != "udp")
