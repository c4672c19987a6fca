"""The listener on a pod's addresses where Prometheus and the control plane read a proxy's metrics.

Whoever has no certificate of the mesh that names one of the two is refused in the handshake: apps,
other proxies, and all that reaches the pod's networks. On loopback the bootstrap's own listener has
the same port.
"""

from __future__ import annotations

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)

from dockermesh.model import Identity
from dockermesh.model.contract import (
    ADMIN_CLUSTER,
    CONTROL_PLANE_ACCOUNT,
    PROMETHEUS_PORT,
    SCRAPER_ACCOUNT,
    SYSTEM_NAMESPACE,
)
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.listeners import filter_chain, http_filter
from dockermesh.translate.envoy.names import METRICS_LISTENER
from dockermesh.translate.envoy.packing import boolean, pack, seconds
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls.mesh_tls import BOTH_HTTP, named, server_socket

_PATH = "/stats/prometheus"


def metrics_listener(settings: MeshSettings) -> listener_pb2.Listener:
    """The same for all proxies of a mesh."""
    domains = dict.fromkeys((settings.trust_domain, *settings.trust_domain_aliases))
    readers = named(
        str(Identity(domain, SYSTEM_NAMESPACE, account))
        for domain in domains
        for account in (SCRAPER_ACCOUNT, CONTROL_PLANE_ACCOUNT)
    )
    chain = filter_chain(http_filter(_manager()))
    chain.transport_socket.CopyFrom(
        server_socket(settings, protocols=BOTH_HTTP, peers=readers)
    )
    return listener_pb2.Listener(
        name=METRICS_LISTENER,
        address=socket_address("0.0.0.0", PROMETHEUS_PORT),
        # Also while apps have taken all connections that the proxy may have.
        ignore_global_conn_limit=True,
        filter_chains=[chain],
    )


def _manager() -> hcm_pb2.HttpConnectionManager:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix="prometheus",
        normalize_path=boolean(True),
        http_filters=[
            hcm_pb2.HttpFilter(
                name="envoy.filters.http.router",
                typed_config=pack(router_pb2.Router()),
            )
        ],
    )
    route = route_components_pb2.Route()
    route.match.path = _PATH
    method = route.match.headers.add(name=":method")
    method.string_match.exact = "GET"
    route.route.cluster = ADMIN_CLUSTER
    route.route.timeout.CopyFrom(seconds(30))
    host = route_components_pb2.VirtualHost(
        name=METRICS_LISTENER, domains=["*"], routes=[route]
    )
    manager.route_config.CopyFrom(
        route_pb2.RouteConfiguration(
            name=METRICS_LISTENER,
            virtual_hosts=[host],
            # A cluster of the bootstrap, which no other resource names.
            validate_clusters=boolean(False),
        )
    )
    return manager
