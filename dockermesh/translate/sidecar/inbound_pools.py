"""The limits under which a sidecar passes connections and requests on to its own app, and the names
of the services that it does so for.

The DestinationRule of the service that a port belongs to counts at the server as it does at the
clients, so that what these may send is let in there. A Sidecar's `connectionPool` of the listener
takes its place, and else its `inboundConnectionPool`. Rules with a `workloadSelector`, and those of
subsets, are for clients alone. Source: Istio's `buildInboundCluster`
(`pilot/pkg/networking/core/cluster_builder.go`) and `SidecarScope.InboundConnectionPoolForPort`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    TrafficPolicy,
)
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.resource import Resource
from dockermesh.model import Service
from dockermesh.translate.envoy.workload_metadata import name_of
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.traffic_policy import NO_POLICY, effective_policy
from dockermesh.translate.mesh.visibility import Scope
from dockermesh.translate.sidecar.inbound import Owners, Served

Called = Mapping[int, tuple[str, int]]
"""By the port of an app: the hostname that clients call, and the port that they call there."""


def declared_calls(
    services: Iterable[Service],
) -> dict[str, dict[int, tuple[str, int]]]:
    """What ServiceEntries call the ports of workloads, by address; of several the first by name
    counts.
    """
    found: dict[str, dict[int, tuple[str, int]]] = {}
    for service in sorted(services, key=lambda s: s.hostname):
        for endpoint in service.endpoints:
            called = (service.hostname, endpoint.service_port or endpoint.port)
            found.setdefault(endpoint.address, {}).setdefault(endpoint.port, called)
    return found


def calls_to(proxy: Proxy, declared: Called, mesh: MeshState, scope: Scope) -> Called:
    """What the ports of a proxy's app are called."""
    return {**declared, **dict(_own_calls(proxy, mesh, scope))}


def owners_of(served: tuple[Served, ...], calls: Called, mesh: MeshState) -> Owners:
    """The services that the ports belong to."""
    found = []
    for one in served:
        called = calls.get(one.port.number)
        service = mesh.services.get(called[0]) if called is not None else None
        found.append(name_of(service) if service is not None else None)
    return tuple(found)


def with_pools(
    served: tuple[Served, ...],
    calls: Called,
    mesh: MeshState,
    index: ConfigIndex,
    scope: Scope,
) -> tuple[Served, ...]:
    """The ports with the limits that hold for them."""
    # The usual case costs no look at each port.
    if not mesh.config.destination_rules and scope.sidecar is None:
        return served

    return tuple(
        _limited(one, calls.get(one.port.number), mesh, index, scope) for one in served
    )


def _own_calls(
    proxy: Proxy, mesh: MeshState, scope: Scope
) -> Iterator[tuple[int, tuple[str, int]]]:
    """The calls to ports that the workload registered."""
    if proxy.workload is None:
        return
    names = mesh.names_in(scope.project)
    # Backwards, as the last of equal ports is kept: the first one's service counts.
    for port in reversed(proxy.workload.ports):
        host = f"{port.service}.{mesh.settings.service_domain}".lower()
        yield port.port, (names.get(host, host), port.port)


def _limited(
    served: Served,
    called: tuple[str, int] | None,
    mesh: MeshState,
    index: ConfigIndex,
    scope: Scope,
) -> Served:
    policy = _policy(*called, mesh, index, scope) if called is not None else None
    own = _of_sidecar(scope.sidecar, served.port.number)
    pool = own or (policy.connection_pool if policy is not None else None)
    budget = policy.retry_budget if policy is not None else None
    if pool is None and budget is None:
        return served
    return replace(served, pool=pool, retry_budget=budget)


def _policy(
    host: str, port: int, mesh: MeshState, index: ConfigIndex, scope: Scope
) -> TrafficPolicy:
    service = mesh.services.get(host)
    shared = service.shared if service is not None else ""
    if not index.rules.limits_servers_of(host, shared):
        return NO_POLICY

    owner = service.namespace if service is not None else scope.namespace
    rules = index.rules.of(host, owner, scope, shared)
    for_all = tuple(rule for rule in rules if rule.spec.workload_selector is None)
    return effective_policy(index.rules.merged(for_all), port)


def _of_sidecar(
    sidecar: Resource[Sidecar] | None, number: int
) -> ConnectionPoolSettings | None:
    if sidecar is None:
        return None
    for listener in sidecar.spec.ingress:
        is_its = listener.port is not None and listener.port.number == number
        if is_its and listener.connection_pool is not None:
            return listener.connection_pool
    return sidecar.spec.inbound_connection_pool
