"""Route tables of sidecars: one per HTTP port, with a virtual host for every service on it."""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from dockermesh.config.api.destination_rule import TrafficPolicy
from dockermesh.model import Port, Service
from dockermesh.translate.clusters.load_balancer import consistent_hash, hash_policy
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.connection_manager import UNREACHED_HEADER
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

    return route_components_pb2.Route(
        name="default",
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=action,
        decorator=route_components_pb2.Decorator(
            operation=f"{service.hostname}:{port.number}/*"
        ),
    )


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


def catch_all(*, allow_any: bool) -> route_components_pb2.VirtualHost:
    """What happens to hosts that are no service: passed through, or 502 (Istio's `allow_any` and
    `block_all`).
    """
    if allow_any:
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

    return route_components_pb2.VirtualHost(
        name=route.name,
        domains=["*"],
        routes=[route],
        include_request_attempt_count=True,
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


def inbound_table(port: int, cluster: str) -> route_pb2.RouteConfiguration:
    """The routes of an inbound HTTP port: all to the app's cluster, with idempotent requests
    retried.
    """
    idempotent = route_components_pb2.HeaderMatcher(
        name=":method",
        string_match=string_pb2.StringMatcher(
            safe_regex=regex_pb2.RegexMatcher(regex="GET|HEAD|OPTIONS|PUT|DELETE")
        ),
    )
    routes = [
        _inbound_route(
            cluster,
            route_components_pb2.RouteMatch(prefix="/", headers=[idempotent]),
            is_idempotent=True,
        ),
        _inbound_route(
            cluster, route_components_pb2.RouteMatch(prefix="/"), is_idempotent=False
        ),
    ]
    return route_pb2.RouteConfiguration(
        name=cluster,
        virtual_hosts=[
            route_components_pb2.VirtualHost(
                name=f"inbound|http|{port}", domains=["*"], routes=routes
            ),
        ],
        validate_clusters={"value": False},
        # An app must not be able to set the mark, by which clients' proxies send requests again.
        response_headers_to_remove=[UNREACHED_HEADER],
    )


def _inbound_route(
    cluster: str, match: route_components_pb2.RouteMatch, *, is_idempotent: bool
) -> route_components_pb2.Route:
    action = route_components_pb2.RouteAction(
        cluster=cluster,
        timeout=seconds(0),
        retry_policy=inbound_retry_policy(is_idempotent=is_idempotent),
    )
    return route_components_pb2.Route(
        name="default",
        match=match,
        route=action,
    )
