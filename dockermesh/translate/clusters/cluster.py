"""Clusters: where a proxy may send to, and under which policy."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2

from dockermesh.config.api.common import LocalityLoadBalancerSetting
from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    RetryBudget,
    Subset,
    TrafficPolicy,
)
from dockermesh.config.api.health_check import HealthCheck
from dockermesh.model import Endpoint, Port, Resolution, Service
from dockermesh.translate.clusters.circuit_breaking import (
    give_up_the_dead,
    set_connection,
    set_outlier_detection,
    thresholds,
)
from dockermesh.translate.clusters.endpoints import (
    load_assignment,
    locality_setting,
    serving,
)
from dockermesh.translate.clusters.health_checks import set_health_check
from dockermesh.translate.clusters.load_balancer import balance, is_passthrough
from dockermesh.translate.clusters.protocol import (
    OPTIONS_KEY,
    downstream_protocol_options,
    set_protocol,
)
from dockermesh.translate.clusters.proxy_protocol import announce_client
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.client_state import lead_from_client
from dockermesh.translate.envoy.discovery import ads
from dockermesh.translate.envoy.offered import Spoken
from dockermesh.translate.envoy.packing import seconds
from dockermesh.translate.envoy.workload_metadata import (
    describe_cluster,
    describe_service,
    name_of,
)
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.traffic_policy import NO_POLICY
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.tls import client_tls, mesh_tls

INBOUND_SOURCE = "127.0.0.6"
"""Source address of connections from the inbound listener to the app: capture rules let it pass
(Istio's).
"""
_DNS = {
    Resolution.DNS: cluster_pb2.Cluster.STRICT_DNS,
    Resolution.DYNAMIC_DNS: cluster_pb2.Cluster.STRICT_DNS,
    Resolution.DNS_ROUND_ROBIN: cluster_pb2.Cluster.LOGICAL_DNS,
}


ANYWHERE = Scope()


def service_cluster(
    service: Service,
    port: Port,
    settings: MeshSettings,
    *,
    policy: TrafficPolicy = NO_POLICY,
    subset: Subset | None = None,
    check: HealthCheck | None = None,
    has_certificate: bool = True,
    is_assumed: bool = False,
    scope: Scope = ANYWHERE,
) -> cluster_pb2.Cluster:
    """The cluster of one port of a service, or of one of its subsets, as proxies in this scope are
    to use it.

    A proxy without a certificate of the mesh cannot speak mutual TLS: it is not asked to.
    `is_assumed`: nobody says that the port speaks what it is said to speak here.
    """
    name = _name_of(subset)
    cluster = cluster_pb2.Cluster(
        name=names.outbound_cluster(service.hostname, port.number, name),
        connect_timeout=seconds(settings.connect_timeout),
        circuit_breakers=thresholds(policy.connection_pool, policy.retry_budget),
        # Which endpoints may be used is decided in the assignment; Envoy must not second-guess it.
        common_lb_config={"healthy_panic_threshold": {"value": 0}},
    )
    describe_service(cluster.metadata, name_of(service))
    balance(cluster, policy.load_balancer)
    setting = locality_setting(policy, settings.locality)

    if not _discovers(cluster, service, policy):
        endpoints = _named(cluster, service, port, subset)
        _set_endpoints(cluster, endpoints, scope, setting)

    set_connection(cluster, policy.connection_pool, settings.tcp_keepalive)
    set_outlier_detection(cluster, policy.outlier_detection)

    # An original destination is the client's choice: nothing is balanced, and nothing checked.
    chooses = cluster.lb_policy != cluster_pb2.Cluster.CLUSTER_PROVIDED
    if chooses and _has_weights(setting):
        cluster.common_lb_config.locality_weighted_lb_config.SetInParent()

    # TLS of the user's first: a rule that speaks of TLS switches the mesh's own off.
    tls = policy.tls
    is_meshed = (
        not client_tls.originates(tls)
        and has_certificate
        and _speaks_mesh_tls(cluster, service, policy, settings)
    )
    spoken = set_protocol(
        cluster,
        port,
        policy,
        settings,
        is_mesh_alone=is_meshed and (tls is not None or takes_mtls_alone(service)),
    )
    if spoken is Spoken.NEGOTIATED:
        give_up_the_dead(cluster)
    is_http2 = spoken is Spoken.HTTP2
    if client_tls.originates(tls):
        cluster.transport_socket.CopyFrom(
            client_tls.transport_socket(
                tls, service, port, verify=settings.verify_certificates, http2=is_http2
            )
        )
    elif is_meshed:
        mesh_tls.set_client(
            cluster,
            service,
            port,
            settings,
            tls=tls,
            subset=name,
            spoken=spoken,
            is_assumed=is_assumed,
            at_node=scope.at_node,
        )

    # Around whatever transport was set before.
    if policy.proxy_protocol is not None:
        announce_client(cluster, policy.proxy_protocol)
    if scope.at_node:
        lead_from_client(cluster)
    # A node's proxy has no client whose namespace a check could leave from.
    if check is not None and chooses and not scope.at_node:
        set_health_check(
            cluster, check, is_http=port.protocol.is_http, is_http2=is_http2
        )
        # A check speaks HTTP/1.1, whatever a connection would agree on.
        for made in cluster.health_checks if spoken is Spoken.NEGOTIATED else ():
            made.tls_options.alpn_protocols.append(mesh_tls.ISTIO)
    return cluster


def _name_of(subset: Subset | None) -> str:
    return subset.name if subset is not None else ""


def _has_weights(setting: LocalityLoadBalancerSetting | None) -> bool:
    return setting is not None and bool(setting.distribute)


def _set_endpoints(
    cluster: cluster_pb2.Cluster,
    endpoints: Iterable[Endpoint],
    scope: Scope,
    setting: LocalityLoadBalancerSetting | None,
) -> None:
    # Of one name there is nothing to choose, and Envoy refuses a cluster of that type without it.
    chosen = setting if cluster.type != cluster_pb2.Cluster.LOGICAL_DNS else None
    made = load_assignment(
        cluster.name,
        endpoints,
        locality=scope.locality,
        labels=dict(scope.labels),
        setting=chosen,
    )
    cluster.load_assignment.CopyFrom(made)


def _speaks_mesh_tls(
    cluster: cluster_pb2.Cluster,
    service: Service,
    policy: TrafficPolicy,
    settings: MeshSettings,
) -> bool:
    """Whether the rule asks for it, or, where no rule speaks of TLS, an endpoint can take it."""
    if policy.tls is not None:
        return mesh_tls.is_asked_for(policy.tls)
    return mesh_tls.is_automatic(cluster, service, settings)


def has_assignment(service: Service, policy: TrafficPolicy) -> bool:
    """Whether the cluster takes its endpoints from EDS."""
    return service.resolution is Resolution.STATIC and not is_passthrough(policy)


def _discovers(
    cluster: cluster_pb2.Cluster, service: Service, policy: TrafficPolicy
) -> bool:
    """Set where the endpoints come from. Returns whether that is elsewhere than in the cluster
    itself.
    """
    if has_assignment(service, policy):
        cluster.type = cluster_pb2.Cluster.EDS
        cluster.eds_cluster_config.CopyFrom(
            cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads())
        )
        return True

    kind = _DNS.get(service.resolution)
    if kind is None or is_passthrough(policy) or service.hostname.startswith("*"):
        cluster.type = cluster_pb2.Cluster.ORIGINAL_DST
        cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED

        # Of the algorithm that the rule asked for nothing is left: it would never be asked.
        for name in (
            "ring_hash_lb_config",
            "maglev_lb_config",
            "least_request_lb_config",
            "round_robin_lb_config",
        ):
            cluster.ClearField(name)

        return True

    cluster.type = kind
    # As often as the record's own time to live says; a minute is for answers without one.
    cluster.dns_refresh_rate.CopyFrom(seconds(60))
    cluster.respect_dns_ttl = True
    cluster.dns_lookup_family = cluster_pb2.Cluster.V4_PREFERRED

    return False


def _named(
    cluster: cluster_pb2.Cluster, service: Service, port: Port, subset: Subset | None
) -> list[Endpoint]:
    """The endpoints that are resolved by their names."""
    endpoints = serving(service, port, subset.labels if subset is not None else None)
    if not service.endpoints and (subset is None or not subset.labels):
        endpoints = [Endpoint(service.hostname, port.number)]
    if cluster.type == cluster_pb2.Cluster.LOGICAL_DNS:
        # Envoy takes one name for such a cluster.
        endpoints = endpoints[:1] or [Endpoint(service.hostname, port.number)]
    return endpoints


def original_destination(
    name: str, *, bind_source: bool = False, at_node: bool = False
) -> cluster_pb2.Cluster:
    """A cluster that forwards to the address which the client dialled."""
    cluster = cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        connect_timeout=seconds(10),
        # Behind it is everything that is no service: Envoy's 1,024 connections would be for all of
        # that together.
        circuit_breakers=thresholds(),
        typed_extension_protocol_options={OPTIONS_KEY: downstream_protocol_options()},
    )
    describe_cluster(cluster.metadata, name)
    if at_node:
        # To its app it seems to be the client itself (`node.listeners`), and needs no mark.
        lead_from_client(cluster)
    elif bind_source:
        cluster.upstream_bind_config.source_address.CopyFrom(
            address_pb2.SocketAddress(address=INBOUND_SOURCE, port_value=0)
        )

    return cluster


def inbound_cluster(name: str, *, at_node: bool = False) -> cluster_pb2.Cluster:
    """The app itself, on the address that the client dialled: no address of the replica is in the
    resource.
    """
    cluster = original_destination(name, bind_source=True, at_node=at_node)
    # The app is beside the proxy: it accepts at once or not at all.
    cluster.connect_timeout.CopyFrom(seconds(1))
    return cluster


def limit_inbound(
    cluster: cluster_pb2.Cluster,
    pool: ConnectionPoolSettings | None,
    budget: RetryBudget | None,
) -> None:
    """Limit what is passed on to the app itself; without limits of the user's there are none."""
    cluster.circuit_breakers.CopyFrom(thresholds(pool, budget))
    set_connection(cluster, pool, None)


def black_hole() -> cluster_pb2.Cluster:
    """A cluster without endpoints: what may not be reached."""
    cluster = cluster_pb2.Cluster(
        name=names.BLACK_HOLE_CLUSTER,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=seconds(10),
    )
    describe_cluster(cluster.metadata, cluster.name)
    return cluster


def static_cluster(name: str, address: str, port: int) -> cluster_pb2.Cluster:
    """A cluster with one endpoint that never changes."""
    endpoint = endpoint_components_pb2.Endpoint(address=socket_address(address, port))
    group = endpoint_components_pb2.LocalityLbEndpoints(
        lb_endpoints=[endpoint_components_pb2.LbEndpoint(endpoint=endpoint)]
    )
    return cluster_pb2.Cluster(
        name=name,
        type=cluster_pb2.Cluster.STATIC,
        connect_timeout=seconds(2),
        load_assignment=endpoint_pb2.ClusterLoadAssignment(
            cluster_name=name, endpoints=[group]
        ),
    )


def dns_cluster(name: str, host: str, port: int) -> cluster_pb2.Cluster:
    """A cluster of all that DNS has for a host; it is asked again every 5 s."""
    cluster = static_cluster(name, host, port)
    cluster.type = cluster_pb2.Cluster.STRICT_DNS
    cluster.dns_refresh_rate.CopyFrom(seconds(5))
    return cluster


def ports_of(service: Service) -> Iterable[Port]:
    """The ports that have clusters: UDP has none, the mesh does not carry it."""
    return (port for port in service.ports if port.protocol != "udp")
