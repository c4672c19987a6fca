"""Where a rule's destination leads, as proxies in one scope see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import hash_policy_pb2

from dockermesh.config.api.destination_rule import ConsistentHashLB, TrafficPolicy
from dockermesh.config.api.virtual_service import (
    Destination,
    HTTPRouteDestination,
    RouteDestination,
)
from dockermesh.model import Port, Protocol, Service
from dockermesh.translate.clusters.circuit_breaking import limit_connection
from dockermesh.translate.clusters.load_balancer import consistent_hash
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.listeners import CONNECT_ATTEMPTS
from dockermesh.translate.envoy.packing import uint32
from dockermesh.translate.mesh.host_rules import Rules, resolve_host
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.mesh.traffic_policy import effective_policy
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.routes.holding import hold_connection
from dockermesh.translate.tls.mesh_tls import is_asked_for

_Target = TypeVar("_Target", RouteDestination, HTTPRouteDestination)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Everything of a destination that a route to it is made of."""

    host: str
    rules: Rules
    ports: tuple[Port, ...] = ()
    takes_mtls_alone: bool = False
    is_external: bool = False
    is_meshed: bool = False


def live(targets: tuple[_Target, ...]) -> tuple[_Target, ...]:
    """The targets that get a share."""
    # A single target ignores its weight, which is 0 where nobody wrote one (Istio).
    return tuple(t for t in targets if t.weight > 0) or targets[:1]


@dataclass(frozen=True, slots=True)
class Destinations:
    """Looks destinations up in one state of the mesh."""

    mesh: MeshState
    index: ConfigIndex
    scope: Scope

    def host(self, destination: Destination, namespace: str) -> str:
        """The hostname of a destination that a resource in `namespace` names."""
        return resolve_host(
            self.mesh.names_in(self.scope.project), destination.host, namespace
        )

    def port(self, destination: Destination, host: str, called: int) -> int:
        """The port of a destination: the one it names, the service's only one, or the one that was
        called.
        """
        # 0 stands for a port that is given without number, and so not given.
        if destination.port is not None and destination.port.number:
            return destination.port.number
        service = self.mesh.services.get(host)
        return (
            service.ports[0].number
            if service is not None and len(service.ports) == 1
            else called
        )

    def cluster(self, destination: Destination, namespace: str, called: int) -> str:
        """The cluster of a destination. It may not exist: Envoy then answers 503, as Istio
        documents.
        """
        host = self.host(destination, namespace)
        return names.outbound_cluster(
            host, self.port(destination, host, called), destination.subset
        )

    def policy(self, host: str, port: int, subset: str = "") -> TrafficPolicy:
        """What applies to connections to a host."""
        rule = self.index.rules.merged(self._rules(host))
        return effective_policy(rule, port, rule.subset(subset) if subset else None)

    def is_mesh_alone(self, host: str, port: int, subset: str = "") -> bool:
        """Whether every endpoint is called over mutual TLS, so that what answers there is a proxy
        of the mesh.
        """
        service = self.mesh.services.get(host)
        if service is None or not self.scope.has_certificate:
            return False
        tls = self.policy(host, port, subset).tls
        if tls is not None:
            return is_asked_for(tls)
        return self.mesh.settings.auto_mtls and takes_mtls_alone(service)

    def tells_spoken(self, host: str, port: int, subset: str = "") -> bool:
        """Whether servers' proxies have to be told what a request's client spoke, and that it is a
        request: nobody says what the port speaks.
        """
        service = self.mesh.services.get(host)
        if service is None or not service.is_meshed or service.is_external:
            return False
        tls = self.policy(host, port, subset).tls
        return (tls is None or is_asked_for(tls)) and any(
            p.number == port and p.protocol is Protocol.AUTO for p in service.ports
        )

    def leads_to_mesh_alone(
        self, destination: Destination, namespace: str, called: int
    ) -> bool:
        """Whether all that a destination stands for is the mesh's own."""
        return self.is_mesh_alone(*self._target(destination, namespace, called))

    def destination_tells_spoken(
        self, destination: Destination, namespace: str, called: int
    ) -> bool:
        """What `tells_spoken` says of a destination."""
        return self.tells_spoken(*self._target(destination, namespace, called))

    def _target(
        self, destination: Destination, namespace: str, called: int
    ) -> tuple[str, int, str]:
        host = self.host(destination, namespace)
        return host, self.port(destination, host, called), destination.subset

    def _rules(self, host: str) -> Rules:
        service = self.mesh.services.get(host)
        # What is no service has no namespace of its own whose rules could count.
        if service is None:
            return self.index.rules.of(host, self.scope.namespace, self.scope)
        return self.index.rules.of(host, service.namespace, self.scope, service.shared)

    def hash_of(
        self, destination: Destination, namespace: str, called: int
    ) -> ConsistentHashLB | None:
        """What requests to a destination are balanced by, if it is a hash."""
        host = self.host(destination, namespace)
        return consistent_hash(
            self.policy(host, self.port(destination, host, called), destination.subset)
        )

    def depends_on(self, destination: Destination, namespace: str) -> Dependency:
        """Everything of a destination that a route to it is made of."""
        host = self.host(destination, namespace)
        service = self.mesh.services.get(host)
        if service is None:
            return Dependency(host, self._rules(host))
        return Dependency(
            host,
            self._rules(host),
            service.ports,
            takes_mtls_alone(service),
            service.is_external,
            service.is_meshed,
        )

    def service_filter(self, service: Service, port: Port) -> Any:
        """The TCP proxy that forwards to a service."""
        target = RouteDestination(destination=Destination(host=service.hostname))
        return self.tcp_proxy((target,), service.namespace, port.number)

    def tcp_proxy(
        self, targets: tuple[RouteDestination, ...], namespace: str, called: int
    ) -> Any:
        """The TCP proxy that forwards to weighted destinations."""
        chosen = live(targets)
        pairs = [
            (self.cluster(t.destination or Destination(), namespace, called), t.weight)
            for t in chosen
        ]
        # TCP knows no retry policy: this is how a connection that one endpoint refuses goes to
        # another.
        proxy = tcp_proxy_pb2.TcpProxy(
            stat_prefix=pairs[0][0], max_connect_attempts=uint32(CONNECT_ATTEMPTS)
        )
        if not any(self._is_external(t.destination, namespace) for t in chosen):
            hold_connection(proxy, self.mesh.settings.hold_attempts)

        if len(pairs) == 1:
            proxy.cluster = pairs[0][0]
        else:
            for cluster, weight in pairs:
                proxy.weighted_clusters.clusters.add(name=cluster, weight=weight)

        # Envoy has these limits on the proxy, before a cluster is chosen by weight: one set of them
        # must do for all targets.
        first = chosen[0].destination or Destination()
        self._set_policy(proxy, first, namespace, called)
        return proxy

    def _is_external(self, destination: Destination | None, namespace: str) -> bool:
        """Whether it is outside the mesh: what refuses there is not one of ours that restarts."""
        host = self.host(destination or Destination(), namespace)
        service = self.mesh.services.get(host)
        return service is not None and service.is_external

    def _set_policy(
        self, proxy: Any, destination: Destination, namespace: str, called: int
    ) -> None:
        host = self.host(destination, namespace)
        policy = self.policy(
            host, self.port(destination, host, called), destination.subset
        )
        limit_connection(proxy, policy.connection_pool)

        if policy.tunnel is not None:
            tunnel = policy.tunnel
            proxy.tunneling_config.hostname = (
                f"{tunnel.target_host}:{tunnel.target_port}"
            )
            proxy.tunneling_config.use_post = tunnel.protocol == "POST"

        hashed = consistent_hash(policy)
        if hashed is not None and hashed.use_source_ip:
            proxy.hash_policy.append(
                hash_policy_pb2.HashPolicy(
                    source_ip=hash_policy_pb2.HashPolicy.SourceIp()
                )
            )
