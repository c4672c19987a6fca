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
from dockermesh.model import Port, Service
from dockermesh.translate.clusters.load_balancer import consistent_hash
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.packing import seconds, uint32
from dockermesh.translate.mesh.index import ConfigIndex, Rules, resolve_host
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.mesh.traffic_policy import effective_policy
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.tls.mesh_tls import is_asked_for

Dependency = tuple[tuple[Port, ...], Rules, bool]
_Target = TypeVar("_Target", RouteDestination, HTTPRouteDestination)


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
        rule = self.index.merged(self._rules(host))
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

    def leads_to_mesh_alone(
        self, destination: Destination, namespace: str, called: int
    ) -> bool:
        """The same of a destination."""
        host = self.host(destination, namespace)
        port = self.port(destination, host, called)
        return self.is_mesh_alone(host, port, destination.subset)

    def _rules(self, host: str) -> Rules:
        service = self.mesh.services.get(host)
        # What is no service has no namespace of its own whose rules could count.
        if service is None:
            return self.index.rules_of(host, self.scope.namespace, self.scope)
        return self.index.rules_of(host, service.namespace, self.scope, service.shared)

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
            return (), self._rules(host), False
        return service.ports, self._rules(host), takes_mtls_alone(service)

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
            stat_prefix=pairs[0][0], max_connect_attempts=uint32(3)
        )

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

    def _set_policy(
        self, proxy: Any, destination: Destination, namespace: str, called: int
    ) -> None:
        host = self.host(destination, namespace)
        policy = self.policy(
            host, self.port(destination, host, called), destination.subset
        )
        tcp = policy.connection_pool.tcp if policy.connection_pool is not None else None
        if tcp is not None and tcp.idle_timeout is not None:
            proxy.idle_timeout.CopyFrom(seconds(tcp.idle_timeout.total_seconds()))

        if tcp is not None and tcp.max_connection_duration is not None:
            proxy.max_downstream_connection_duration.CopyFrom(
                seconds(tcp.max_connection_duration.total_seconds())
            )

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
