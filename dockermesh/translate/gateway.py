"""Listeners and route tables of a gateway, from the Gateways that select it and the VirtualServices bound to them.

Source of the rules: Istio's Gateway reference and `pilot/pkg/networking/core/gateway.go`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

from dockermesh.config.api.gateway import Gateway, Server
from dockermesh.config.api.virtual_service import Destination, VirtualService
from dockermesh.config.resource import Resource
from dockermesh.translate import names
from dockermesh.translate.clusters import socket_address
from dockermesh.translate.http import connection_manager
from dockermesh.translate.listeners import filter_chain, http_filter, tcp_filter
from dockermesh.translate.mesh import MeshState
from dockermesh.translate.routes import table_frame
from dockermesh.translate.virtual_service import http_routes

_HTTP = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})


@dataclass(slots=True)
class _Bound:
    """A server and the resource that it stands in."""

    server: Server
    gateway: Resource[Gateway]


@dataclass(frozen=True, slots=True)
class GatewayResources:
    """What a gateway proxy gets beside the clusters of the mesh."""

    listeners: list[listener_pb2.Listener] = field(default_factory=list)
    tables: list[route_pb2.RouteConfiguration] = field(default_factory=list)


def gateway_resources(mesh: MeshState, labels: Mapping[str, str]) -> GatewayResources:
    """Everything that the Gateways whose selector matches `labels` ask for, one listener per port.

    Where servers of one port disagree on HTTP or TCP, the oldest Gateway wins, as in Istio.
    """
    by_port: dict[int, list[_Bound]] = defaultdict(list)
    for resource in mesh.edge.gateways:
        spec = resource.spec
        if not selects(spec.selector, labels):
            continue
        for server in spec.servers:
            if server.port is not None:
                by_port[server.port.number].append(_Bound(server, resource))
    result = GatewayResources()
    for port, bound in sorted(by_port.items()):
        if _is_http(bound[0].server):
            result.listeners.append(_http_listener(port))
            result.tables.append(_table(mesh, port, [b for b in bound if _is_http(b.server)]))
        else:
            _add_tcp(result, mesh, port, bound)
    return result


def selects(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there; an empty selector selects every gateway."""
    return all(labels.get(key) == value for key, value in selector.items())


def _is_http(server: Server) -> bool:
    return server.port is not None and server.port.protocol.upper() in _HTTP


def _http_listener(port: int) -> listener_pb2.Listener:
    manager = connection_manager(f"outbound_0.0.0.0_{port}", rds=names.gateway_route(port), is_edge=True)
    return listener_pb2.Listener(
        name=names.listener("0.0.0.0", port),
        address=socket_address("0.0.0.0", port),
        traffic_direction="OUTBOUND",
        filter_chains=[filter_chain(http_filter(manager))],
    )


def _table(mesh: MeshState, port: int, bound: list[_Bound]) -> route_pb2.RouteConfiguration:
    """The route table of an HTTP port; a host with no VirtualService is answered 404."""
    by_host: dict[str, list[route_components_pb2.Route]] = {}
    for resource in mesh.edge.virtual_services:
        spec = resource.spec
        hosts = _bound_hosts(resource, bound)
        if not hosts:
            continue

        def cluster_of(destination: Destination, namespace: str = resource.namespace) -> str:
            return cluster_for(mesh, destination, namespace=namespace, default_port=port)

        routes = http_routes(spec.http, cluster_of, mesh.settings)
        for host in hosts:
            by_host.setdefault(host, []).extend(routes)
    table = table_frame(names.gateway_route(port))
    for host, routes in sorted(by_host.items()):
        # Routes of several VirtualServices follow each other; what matches everything goes last.
        ordered = sorted(routes, key=_is_catch_all)
        table.virtual_hosts.append(
            route_components_pb2.VirtualHost(
                name=f"{host}:{port}", domains=[host], routes=ordered, include_request_attempt_count=True
            )
        )
    return table


def _is_catch_all(route: route_components_pb2.Route) -> bool:
    match = route.match
    return match.prefix == "/" and not match.headers and not match.query_parameters


def _bound_hosts(resource: Resource[VirtualService], bound: list[_Bound]) -> list[str]:
    """The hosts that both the VirtualService and a server of a gateway it names have."""
    spec = resource.spec
    hosts: dict[str, None] = {}
    for entry in bound:
        own_name = f"{entry.gateway.namespace}/{entry.gateway.name}"
        named = {g if "/" in g else f"{resource.namespace}/{g}" for g in spec.gateways}
        if own_name not in named:
            continue
        for server_host in entry.server.hosts:
            scope, _, pattern = server_host.rpartition("/")
            if scope == "." and entry.gateway.namespace != resource.namespace:
                continue
            if scope not in {"", "*", ".", resource.namespace}:
                continue
            for host in spec.hosts:
                narrow = intersect(host.lower(), pattern.lower())
                if narrow is not None:
                    hosts[narrow] = None
    return list(hosts)


def intersect(a: str, b: str) -> str | None:
    """The narrower of two host patterns where one contains the other; None where they have nothing in common."""
    if b in {a, "*"}:
        return a
    if a == "*":
        return b
    if b.startswith("*") and a.endswith(b[1:]):
        return a
    if a.startswith("*") and b.endswith(a[1:]):
        return b
    return None


def cluster_for(mesh: MeshState, destination: Destination, *, namespace: str, default_port: int) -> str:
    """The cluster of a destination: its host resolved to a service, its port or the service's only one."""
    host = mesh.names.get(destination.host.lower()) or mesh.names.get(f"{destination.host}.{namespace}".lower())
    service = mesh.services.get(host) if host else None
    port = destination.port.number if destination.port is not None else 0
    if not port:
        port = service.ports[0].number if service is not None and len(service.ports) == 1 else default_port
    return names.outbound_cluster(host or destination.host, port, destination.subset)


def _add_tcp(result: GatewayResources, mesh: MeshState, port: int, bound: list[_Bound]) -> None:
    """A TCP port goes to the first TCP rule that is bound to it; without one it is not opened."""
    for resource in mesh.edge.virtual_services:
        spec = resource.spec
        if not _bound_hosts(resource, bound):
            continue
        for rule in spec.tcp:
            applies = not rule.match or any(m.port in {0, port} for m in rule.match)
            if applies and rule.route and rule.route[0].destination is not None:
                cluster = cluster_for(mesh, rule.route[0].destination, namespace=resource.namespace, default_port=port)
                result.listeners.append(
                    listener_pb2.Listener(
                        name=names.listener("0.0.0.0", port),
                        address=socket_address("0.0.0.0", port),
                        traffic_direction="OUTBOUND",
                        filter_chains=[filter_chain(tcp_filter(cluster))],
                    )
                )
                return
