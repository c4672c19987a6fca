"""Route tables of sidecars: one per HTTP port, with a virtual host for every service on it."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.route.v3 import route_components_pb2, route_pb2

from dockermesh.config.api.destination_rule import TrafficPolicy
from dockermesh.model import Port, Service
from dockermesh.translate.clusters.load_balancer import consistent_hash, hash_policy
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.connection_manager import UNREACHED_HEADER
from dockermesh.translate.envoy.dialled import look_up_again
from dockermesh.translate.envoy.offered import tell_spoken
from dockermesh.translate.envoy.packing import seconds
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.routes.holding import inbound_retry_policy
from dockermesh.translate.routes.retries import retries


def virtual_host(
    name: str, domains: Iterable[str], routes: Iterable[route_components_pb2.Route]
) -> route_components_pb2.VirtualHost:
    """The routes of a host, by whatever name it is called."""
    return route_components_pb2.VirtualHost(
        name=name, domains=domains, routes=routes, include_request_attempt_count=True
    )


def default_route(
    service: Service,
    port: Port,
    policy: TrafficPolicy,
    settings: MeshSettings,
    *,
    is_mesh_alone: bool,
    tells_spoken: bool,
) -> route_components_pb2.Route:
    """The default routing of a service: everything to its one cluster, without a time limit
    (Istio's default).
    """
    action = forward_to(names.outbound_cluster(service.hostname, port.number))
    hashed = consistent_hash(policy)
    action.hash_policy.extend(hash_policy(hashed))
    again = retries(
        None, settings, is_hashed=hashed is not None, is_mesh_alone=is_mesh_alone
    )
    if again is not None:
        action.retry_policy.CopyFrom(again)

    route = route_components_pb2.Route(
        name="default",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=action,
        decorator=route_components_pb2.Decorator(
            operation=f"{service.hostname}:{port.number}/*"
        ),
    )
    if tells_spoken:
        tell_spoken(route.typed_per_filter_config)
    return route


def forward_to(cluster: str) -> route_components_pb2.RouteAction:
    """Forward to a cluster (empty: weighted clusters will be set) without a time limit."""
    # Envoy's own default is 15 s.
    action = route_components_pb2.RouteAction(timeout=seconds(0))
    if cluster:
        action.cluster = cluster
    action.max_stream_duration.max_stream_duration.CopyFrom(seconds(0))
    # 0 lets the deadline hold that a gRPC client sends with its call, however long it is.
    action.max_stream_duration.grpc_timeout_header_max.CopyFrom(seconds(0))
    return action


def catch_all(
    first: Iterable[route_components_pb2.Route], *, allow_any: bool
) -> route_components_pb2.VirtualHost:
    """What happens to hosts that are no service, at addresses that are none: passed through, or
    502 (Istio's `allow_any` and `block_all`), unless one of the `first` routes takes them.
    """
    routes = []
    if allow_any:
        routes.append(_tunnels(names.PASSTHROUGH_CLUSTER))
        route = route_components_pb2.Route(
            name="allow_any",
            match=route_components_pb2.RouteMatch(prefix="/"),
            route=route_components_pb2.RouteAction(
                cluster=names.PASSTHROUGH_CLUSTER, timeout=seconds(0)
            ),
        )
    else:
        route = route_components_pb2.Route(
            name="block_all",
            match=route_components_pb2.RouteMatch(prefix="/"),
            direct_response=route_components_pb2.DirectResponseAction(status=502),
        )

    host = route_components_pb2.VirtualHost(
        name=route.name,
        domains=["*"],
        routes=[*first, route, *routes],
        include_request_attempt_count=True,
    )
    look_up_again(host)
    return host


def _tunnels(cluster: str) -> route_components_pb2.Route:
    """CONNECT, to forward proxies: it has no path, and no other route matches it."""
    connect = route_components_pb2.RouteMatch.ConnectMatcher()
    return route_components_pb2.Route(
        name="connect",
        match=route_components_pb2.RouteMatch(connect_matcher=connect),
        route=route_components_pb2.RouteAction(cluster=cluster, timeout=seconds(0)),
    )


def table_frame(name: str) -> route_pb2.RouteConfiguration:
    """A route configuration without its virtual hosts."""
    return route_pb2.RouteConfiguration(
        name=name,
        # So domains need not be there a second time with their port, as Istio has them.
        ignore_port_in_host_matching=True,
        # A table never refers to a cluster before it was sent, but may outlive one by a moment.
        validate_clusters={"value": False},
        # The mark is for proxies: retries are decided before it is taken off, and no app sees it.
        response_headers_to_remove=[UNREACHED_HEADER],
        # Istio's limit; Envoy's is 4 KiB.
        max_direct_response_body_size_bytes={"value": 1048576},
    )


def inbound_table(
    port: int, cluster: str, settings: MeshSettings
) -> route_pb2.RouteConfiguration:
    """The routes of an inbound HTTP port: all to the app's cluster."""
    action = route_components_pb2.RouteAction(cluster=cluster, timeout=seconds(0))
    # Who wants no retries in the mesh at all wants none of ours, either.
    if settings.retries is None or settings.retries.attempts:
        action.retry_policy.CopyFrom(inbound_retry_policy())

    requests = route_components_pb2.Route(
        name="default",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=action,
    )
    return route_pb2.RouteConfiguration(
        name=cluster,
        virtual_hosts=[
            route_components_pb2.VirtualHost(
                name=f"inbound|http|{port}",
                domains=["*"],
                routes=[requests],
            ),
        ],
        validate_clusters={"value": False},
        # An app must not be able to set the mark, by which clients' proxies send requests again.
        response_headers_to_remove=[UNREACHED_HEADER],
    )
