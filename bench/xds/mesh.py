"""The synthetic mesh that every server of this benchmark serves: S EDS clusters of 3 endpoints, a
listener and a route.

Pure; the Go program builds the same.
"""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

PORT = 8080


def name(i: int) -> str:
    """The name of service i."""
    return f"svc-{i}"


def addresses(i: int) -> list[str]:
    """The endpoints that service i always has."""
    return [f"10.{100 + k}.{i // 250}.{i % 250 + 1}" for k in range(3)]


def cluster(service: str) -> bytes:
    """A serialised Cluster that asks for its endpoints over ADS."""
    message = cluster_pb2.Cluster(name=service, type=cluster_pb2.Cluster.EDS)
    message.connect_timeout.seconds = 1
    source = message.eds_cluster_config.eds_config
    source.ads.SetInParent()
    source.resource_api_version = 2
    return bytes(message.SerializeToString())


def assignment(service: str, at: list[str]) -> bytes:
    """A serialised ClusterLoadAssignment."""
    message = endpoint_pb2.ClusterLoadAssignment(cluster_name=service)
    locality = message.endpoints.add()
    for address in at:
        socket_address = address_pb2.SocketAddress(address=address, port_value=PORT)
        locality.lb_endpoints.add().endpoint.address.socket_address.CopyFrom(
            socket_address
        )
    return bytes(message.SerializeToString())


def routes(services: int) -> bytes:
    """A serialised RouteConfiguration with a virtual host per service."""
    message = route_pb2.RouteConfiguration(name="8080")
    for i in range(services):
        host = message.virtual_hosts.add(name=name(i), domains=[name(i)])
        route = host.routes.add()
        route.match.prefix = "/"
        route.route.cluster = name(i)
    return bytes(message.SerializeToString())


def listener() -> bytes:
    """A serialised Listener that asks for its routes over ADS."""
    manager = hcm_pb2.HttpConnectionManager(stat_prefix="bench")
    manager.rds.route_config_name = "8080"
    manager.rds.config_source.ads.SetInParent()
    manager.rds.config_source.resource_api_version = 2
    message = listener_pb2.Listener(name="8080")
    message.address.socket_address.address = "127.0.0.1"
    message.address.socket_address.port_value = PORT
    connection_filter = message.filter_chains.add().filters.add(name="hcm")
    connection_filter.typed_config.Pack(manager)
    return bytes(message.SerializeToString())
