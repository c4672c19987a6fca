"""Listeners and route tables of a gateway, from the Gateways that select it and the VirtualServices
bound to them.

One listener per address and port. Where servers on it cannot stand together (HTTP with TCP, plain
with TLS, two of TCP, the same server name twice) the oldest Gateway wins and the others are left
out, as in Istio.
"""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2

from dockermesh.config.api.gateway import ServerTlsMode
from dockermesh.config.api.mesh_config import GatewayTopology
from dockermesh.config.api.virtual_service import (
    L4MatchAttributes,
    RouteDestination,
    VirtualService,
)
from dockermesh.config.resource import Resource
from dockermesh.translate.clusters.limiter import limiter_cluster
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.connection_manager import connection_manager
from dockermesh.translate.envoy.isolation import TRANSLATION_ERRORS, sound
from dockermesh.translate.envoy.listeners import (
    TLS_INSPECTOR,
    filter_chain,
    http_filter,
    proxy_filter,
    sniff,
    tcp_filter,
)
from dockermesh.translate.gateway.auto_passthrough import passed_services
from dockermesh.translate.gateway.edge import distrust, told_apart, topology_of
from dockermesh.translate.gateway.hosts import BoundServer, bound_hosts, intersect
from dockermesh.translate.gateway.http1 import http1_clusters
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.state import Proxy
from dockermesh.translate.mesh.visibility import selects
from dockermesh.translate.routes.destinations import Destinations
from dockermesh.translate.routes.match import decides_by_request, is_catch_all
from dockermesh.translate.routes.tables import table_frame, virtual_host
from dockermesh.translate.routes.virtual_service import (
    RouteContext,
    applies,
    http_routes,
)
from dockermesh.translate.security.global_limits import asks_limiter
from dockermesh.translate.security.limit_filters import limited
from dockermesh.translate.security.policies import (
    NO_POLICIES,
    Policies,
    SecurityFilters,
    security_filters,
)
from dockermesh.translate.security.rate_limits import NO_LIMITS, Limits
from dockermesh.translate.tls import mesh_tls, server_tls

_ANY_ADDRESS = "0.0.0.0"
_VirtualHost = route_components_pb2.VirtualHost
_AS_DECLARED: Mapping[int, int] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class GatewayResources:
    """What a gateway proxy gets beside the clusters of the mesh, and what of which resources was
    left out.
    """

    listeners: list[listener_pb2.Listener] = field(default_factory=list)
    tables: list[route_pb2.RouteConfiguration] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    clusters: list[cluster_pb2.Cluster] = field(default_factory=list)
    findings: list[ResourceFinding] = field(default_factory=list)


def gateway_resources(
    where: Destinations,
    proxy: Proxy,
    policies: Policies = NO_POLICIES,
    targets: Mapping[int, int] = _AS_DECLARED,
    limits: Limits = NO_LIMITS,
) -> GatewayResources:
    """Everything that the Gateways whose selector matches the proxy ask for.

    `targets` are the ports to which services forward those that Gateways name (Istio: targetPort of
    the gateway's service).
    """
    places: dict[tuple[str, int], list[BoundServer]] = defaultdict(list)
    for resource in where.mesh.config.gateways:
        if not selects(resource.spec.selector, proxy.labels):
            continue
        for server in resource.spec.servers:
            if server.port is not None:
                port = targets.get(server.port.number, server.port.number)
                places[_address(server.bind), port].append(
                    BoundServer(server, resource)
                )

    security = security_filters(policies, where.mesh.settings, is_gateway=True)
    bridges = proxy.workload.bridges if proxy.workload is not None else ()
    topology = topology_of(proxy, where.mesh.settings)
    result = GatewayResources()
    for (address, port), servers in sorted(places.items()):
        filters = limited(security, limits, port)
        builder = _Builder(where, result, filters, topology, bridges)
        with builder.isolated(*(bound.gateway for bound in servers)):
            builder.add(address, port, servers)

    if asks_limiter(limits.resources):
        result.clusters.append(limiter_cluster(where.mesh.settings))
    return result


def _address(bind: str) -> str:
    try:
        return str(ipaddress.ip_address(bind))
    except ValueError:
        return _ANY_ADDRESS


@dataclass(slots=True)
class _Builder:
    """Collects the resources of one gateway."""

    where: Destinations
    result: GatewayResources
    security: SecurityFilters
    topology: GatewayTopology
    bridges: tuple[str, ...] = ()

    @property
    def _network(self) -> tuple[listener_components_pb2.Filter, ...]:
        return (*self.security.connections, *self.security.network)

    @contextmanager
    def isolated(self, *resources: Resource[Any]) -> Iterator[None]:
        """Leave out and note what the resources cannot become; all others stay."""
        try:
            yield
        except TRANSLATION_ERRORS as error:
            for resource in resources:
                text = f"{resource} cannot be translated: {error}"
                self.result.findings.append(
                    ResourceFinding(str(resource), Reason.NOT_TRANSLATED, text)
                )

    def _conflict(
        self, resource: Resource[Any], what: str, holder: Resource[Any]
    ) -> None:
        """Note what of a resource is left out because another one has it."""
        finding = ResourceFinding(
            str(resource), Reason.CONFLICTED, f"{what} {holder}, which is older"
        )
        # One resource that says something twice is not in conflict with itself.
        if holder is not resource and finding not in self.result.findings:
            self.result.findings.append(finding)

    def _fresh(self, bound: BoundServer, taken: dict[str, Resource[Any]]) -> list[str]:
        """The server's hosts that no earlier server has."""
        for host in bound.hosts:
            if host in taken:
                self._conflict(
                    bound.gateway, f"{bound.title}: {host} is served by", taken[host]
                )
        return [host for host in bound.hosts if host not in taken]

    def add(self, address: str, port: int, servers: list[BoundServer]) -> None:
        """Open an address and port for these servers, oldest first."""
        first = servers[0]
        fitting = []

        for bound in servers:
            if _stand_together(first, bound):
                fitting.append(bound)
            else:
                self._conflict(
                    bound.gateway,
                    f"{bound.title}: {first.title} has the port, of",
                    first.gateway,
                )

        if first.is_plain_http:
            chains = self._http(port, names.gateway_route(port), fitting)
        elif first.is_tls:
            chains = self._tls(port, fitting)
        else:
            chains = self._tcp(first)

        if not chains:
            return
        listener = listener_pb2.Listener(
            name=names.listener(address, port),
            address=socket_address(address, port),
            # A gateway calls into the mesh, which is outbound in Istio.
            traffic_direction="OUTBOUND",
            filter_chains=chains,
        )

        if first.is_tls:
            listener.listener_filters.append(TLS_INSPECTOR)
            sniff(listener)
            # Without a server name no chain can be chosen, so a silent client is let go.
            listener.continue_on_listener_filters_timeout = False

        self.result.listeners.append(sound(listener))

    # HTTP
    # ----------------------------------------------------------------------------------------------

    def _http(
        self, port: int, table: str, servers: list[BoundServer], **match: Any
    ) -> list[Any]:
        """The chain of these servers, and that for processes of the host itself."""
        known = next((t for t in self.result.tables if t.name == table), None)
        if known is None:
            known = self._table(table, servers)
            self.result.tables.append(known)

        settings = self.where.mesh.settings
        is_judged = bool(self.security.http) or any(
            decides_by_request(host.routes) for host in known.virtual_hosts
        )
        made = []

        for peers in told_apart(self.topology, self.bridges):
            manager = connection_manager(
                f"outbound_0.0.0.0_{port}",
                rds=table,
                is_edge=True,
                is_judged=is_judged,
                normalization=settings.normalization,
                security=self.security.http,
                replies=self.security.replies,
            )
            distrust(manager, self.topology, is_neighbour=peers.are_neighbours)
            filters = (*self.security.connections, http_filter(manager))
            made.append(filter_chain(*filters, **match, **peers.match))

        return made

    def _table(
        self, name: str, servers: list[BoundServer]
    ) -> route_pb2.RouteConfiguration:
        """The route table of servers; a host with no VirtualService is answered 404.

        A generated VirtualService has no part in a host for which the user wrote one.
        """
        by_host = self._routes_by_host(servers)
        secured = {
            h for s in servers if s.is_plain_http and _redirects(s) for h in s.hosts
        }
        for host in secured:
            by_host.setdefault(host, [])

        table = table_frame(name)
        for host, routes in sorted(by_host.items()):
            # Routes of several VirtualServices follow each other; what matches everything goes
            # last.
            ordered = sorted(routes, key=lambda r: is_catch_all(r.match))
            made = virtual_host(f"{host}:{servers[0].number}", [host], ordered)
            if any(intersect(host, pattern) == host for pattern in secured):
                # Envoy redirects by itself then, whatever the routes of the host say.
                made.require_tls = _VirtualHost.ALL
            table.virtual_hosts.append(made)
        return table

    def _routes_by_host(
        self, servers: list[BoundServer]
    ) -> dict[str, list[route_components_pb2.Route]]:
        by_host: dict[str, list[route_components_pb2.Route]] = {}
        rules = (
            (r, bound_hosts(r, servers))
            for r in self.where.index.virtual_services
            if r.spec.http
        )

        # Those that were generated come last: they have the hosts that are left.
        for resource, bound in sorted(rules, key=lambda rule: rule[0].is_generated):
            hosts = [
                host
                for host in bound
                if not (resource.is_generated and host in by_host)
            ]
            if not hosts:
                continue

            with self.isolated(resource):
                routes = [
                    sound(route)
                    for route in http_routes(resource, self._context(servers))
                ]
                for host in hosts:
                    by_host.setdefault(host, []).extend(routes)

        return by_host

    def _context(self, servers: list[BoundServer]) -> RouteContext:
        return RouteContext(
            self.where, servers[0].number, frozenset(s.name for s in servers)
        )

    # TLS
    # ----------------------------------------------------------------------------------------------

    def _tls(
        self, port: int, servers: list[BoundServer]
    ) -> list[listener_components_pb2.FilterChain]:
        chains: list[listener_components_pb2.FilterChain] = []
        # By age: of a server name that is there twice, the oldest Gateway's counts.
        taken: dict[str, Resource[Any]] = {}

        for bound in servers:
            with self.isolated(bound.gateway):
                made = (
                    self._terminated(port, bound, taken)
                    if bound.terminates
                    else self._passed(port, bound, taken)
                )
                chains.extend(sound(chain) for chain in made)

        return chains

    def _terminated(
        self, port: int, bound: BoundServer, taken: dict[str, Resource[Any]]
    ) -> list[Any]:
        """One chain for the server's hosts that no older server has."""
        tls = bound.server.tls
        fresh = self._fresh(bound, taken)
        is_http = bound.protocol == "HTTPS"
        socket = (
            server_tls.transport_socket(tls, is_http=is_http)
            if tls is not None
            else None
        )
        # Without a certificate, or with every host taken by an older server, nothing is left.
        if tls is None or socket is None or not fresh:
            return []

        match = _server_names(fresh)
        if is_http and bound.server.port is not None:
            gateway = bound.gateway
            table = f"https.{port}.{bound.server.port.name}.{gateway.name}.{gateway.namespace}"
            chains = self._http(port, table, [bound], **match)
            self._speak_http1(table)
        else:
            targets = next((target for _, target in self._tcp_rules(bound)), None)
            if targets is None:
                return []
            chains = [filter_chain(*self._network, targets, **match)]

        taken.update(dict.fromkeys(fresh, bound.gateway))
        for chain in chains:
            chain.transport_socket.CopyFrom(socket)
        self.result.secrets.extend(server_tls.secret_names(tls))

        return chains

    def _passed(
        self, port: int, bound: BoundServer, taken: dict[str, Resource[Any]]
    ) -> list[Any]:
        """A chain for every server name that a TLS rule bound to the server has."""
        if (
            bound.server.tls is not None
            and bound.server.tls.mode is ServerTlsMode.AUTO_PASSTHROUGH
        ):
            return self._passed_by_name(bound, taken)
        chains = []
        context = self._context([bound])

        for resource in self.where.index.virtual_services:
            hosts = bound_hosts(resource, [bound])
            if not hosts:
                continue

            with self.isolated(resource):
                for name, route in _named_routes(resource, hosts, context):
                    if name in taken:
                        self._conflict(
                            resource,
                            f"server name {name} on port {port} is routed by",
                            taken[name],
                        )
                        continue

                    target = self._proxy(resource, route, bound.number)
                    chains.append(
                        sound(
                            filter_chain(
                                *self._network, target, **_server_names([name])
                            )
                        )
                    )
                    taken[name] = resource

        # TCP rules tell no server names apart, so they count only where no TLS rule does.
        for _, target in self._tcp_rules(bound) if not chains else ():
            fresh = self._fresh(bound, taken)
            if fresh:
                taken.update(dict.fromkeys(fresh, bound.gateway))
                chains.append(
                    filter_chain(*self._network, target, **_server_names(fresh))
                )

        return chains

    def _speak_http1(self, table: str) -> None:
        """Have HTTP/1.1 spoken where what clients of this table speak says nothing of the app."""
        known = {cluster.name for cluster in self.result.clusters}
        routes = next(t for t in self.result.tables if t.name == table)

        for cluster in http1_clusters(self.where, routes):
            # Several servers may lead to one service.
            if cluster.name not in known:
                self.result.clusters.append(sound(cluster))

    def _passed_by_name(
        self, bound: BoundServer, taken: dict[str, Resource[Any]]
    ) -> list[Any]:
        """A chain and a cluster for every service that may be called through the gateway."""
        chains = []
        known = {cluster.name for cluster in self.result.clusters}

        for cluster in passed_services(self.where, bound):
            # Two servers may let the same service through.
            if cluster.name not in known:
                self.result.clusters.append(sound(cluster))
            if cluster.name not in taken:
                taken[cluster.name] = bound.gateway
                protocols = list(mesh_tls.PROTOCOLS)
                target = tcp_filter(cluster.name)
                chains.append(
                    filter_chain(
                        target,
                        server_names=[cluster.name],
                        application_protocols=protocols,
                    )
                )

        return chains

    # TCP
    # ----------------------------------------------------------------------------------------------

    def _tcp(self, bound: BoundServer) -> list[Any]:
        """The chains of a TCP port; without a rule it is not opened."""
        chains: dict[bytes, Any] = {}
        for match, target in self._tcp_rules(bound):
            chain = filter_chain(*self._network, target, **match)
            # Envoy refuses a listener with the same condition twice, so the first rule has it.
            chains.setdefault(
                chain.filter_chain_match.SerializeToString(deterministic=True), chain
            )
        return list(chains.values())

    def _tcp_rules(self, bound: BoundServer) -> Iterable[tuple[dict[str, Any], Any]]:
        """The conditions and the filter of every TCP rule bound to the server."""
        context = self._context([bound])
        for resource in self.where.index.virtual_services:
            if not resource.spec.tcp or not bound_hosts(resource, [bound]):
                continue
            with self.isolated(resource):
                # A list: what fails half-way must leave nothing behind.
                yield from [
                    (conditions, self._proxy(resource, route, bound.number))
                    for conditions, route in _tcp_routes(resource, context)
                ]

    def _proxy(
        self,
        resource: Resource[VirtualService],
        targets: tuple[RouteDestination, ...],
        port: int,
    ) -> Any:
        return sound(
            proxy_filter(self.where.tcp_proxy(targets, resource.namespace, port))
        )


def _stand_together(first: BoundServer, other: BoundServer) -> bool:
    """Whether a port that is the first one's can be the other's, too."""
    if first.is_plain_http:
        return other.is_plain_http
    # Chains with TLS are chosen by server name; plain TCP has nothing to choose by.
    return other.is_tls if first.is_tls else other is first


def _named_routes(
    resource: Resource[VirtualService], hosts: list[str], context: RouteContext
) -> Iterator[tuple[str, tuple[RouteDestination, ...]]]:
    """The server names of the TLS rules, as far as the hosts cover them, with where each leads."""
    for rule in resource.spec.tls:
        for match in rule.match:
            if not rule.route or not applies(match, resource.namespace, context):
                continue
            names_ = (
                intersect(sni.lower(), host)
                for sni in match.sni_hosts
                for host in hosts
            )
            for name in dict.fromkeys(n for n in names_ if n is not None):
                yield name, rule.route


def _tcp_routes(
    resource: Resource[VirtualService], context: RouteContext
) -> Iterator[tuple[dict[str, Any], tuple[RouteDestination, ...]]]:
    """The conditions of the TCP rules, each with where it leads."""
    for rule in resource.spec.tcp:
        for match in rule.match or (L4MatchAttributes(),):
            if rule.route and applies(match, resource.namespace, context):
                for network in match.destination_subnets or ("",):
                    yield _addresses(match.source_subnet, network), rule.route


def _server_names(hosts: list[str]) -> dict[str, Any]:
    """The condition on the SNI; none if one of the hosts is any."""
    return {} if "*" in hosts else {"server_names": hosts}


def _redirects(bound: BoundServer) -> bool:
    return bound.server.tls is not None and bound.server.tls.https_redirect


def _addresses(source: str, network: str) -> dict[str, Any]:
    """The conditions on who connects and to which address."""
    found = {}
    if network:
        found["prefix_ranges"] = [_range(network)]
    if source:
        found["source_prefix_ranges"] = [_range(source)]
    return found


def _range(text: str) -> Any:
    address, _, length = text.partition("/")
    return {
        "address_prefix": address,
        "prefix_len": {"value": int(length or (128 if ":" in address else 32))},
    }
