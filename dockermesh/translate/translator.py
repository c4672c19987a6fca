"""From the mesh's state to each proxy's snapshot, redoing only what a change touches.

Invariants:
- Sidecars in one scope (see `visibility.Scope`) share one set per type; only inbound resources are
  their own, and those are shared by replicas that serve the same ports.
- It does no I/O and reads no clock: the same state gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from dockermesh.model import Port, Protocol, Service, Workload, WorkloadKind
from dockermesh.model.protocol import parse_protocol
from dockermesh.translate.gateway.resources import GatewayResources, gateway_resources
from dockermesh.translate.mesh.changes import Stale, stale_after
from dockermesh.translate.mesh.conflicts import (
    Reason,
    ResourceFinding,
    findings_of_config,
)
from dockermesh.translate.mesh.delegates import Delegation
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import Scope, as_labels
from dockermesh.translate.patches.book import PatchBook
from dockermesh.translate.routes.destinations import Destinations
from dockermesh.translate.security.policies import PolicyIndex
from dockermesh.translate.sidecar import inbound
from dockermesh.translate.sidecar.inbound import Inbound
from dockermesh.translate.sidecar.inbound_listener import inbound_listener
from dockermesh.translate.sidecar.outbound import Counters, SidecarView, named
from dockermesh.translate.sidecar.outbound_service import plain_http_port
from dockermesh.translate.tls.secrets import file_secrets
from dockermesh.xds.resources import CLUSTER, LISTENER, ROUTES, SECRET, Resource
from dockermesh.xds.snapshot import ResourceSet, Snapshot

__all__ = ["Counters", "Translator", "plain_http_port", "workload_ports"]


@dataclass(slots=True)
class Translator:
    """Keeps the translation of one mesh; `update` moves it on, `snapshot` looks a proxy's part
    up.
    """

    mesh: MeshState = field(default_factory=MeshState)
    counters: Counters = field(default_factory=Counters)
    _index: ConfigIndex | None = None
    _delegation: Delegation = field(default_factory=Delegation)
    _views: dict[Scope, SidecarView] = field(default_factory=dict)
    _policies: PolicyIndex = field(default_factory=lambda: PolicyIndex(MeshState()))
    _inbound: dict[Inbound, tuple[tuple[Resource, ...], Resource]] = field(
        default_factory=dict
    )
    _layers: dict[tuple[Scope, Inbound], tuple[ResourceSet, ResourceSet]] = field(
        default_factory=dict
    )
    _asked: set[tuple[Scope, Inbound]] = field(default_factory=set)
    _snapshots: dict[object, Snapshot] = field(default_factory=dict)
    _gateways: dict[object, GatewayResources] = field(default_factory=dict)
    _served: dict[str, dict[int, Port]] = field(default_factory=dict)
    _declared: dict[str, dict[int, Port]] = field(default_factory=dict)
    _forwarded: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    _localities: dict[str, str] = field(default_factory=dict)
    _book: PatchBook = field(default_factory=PatchBook)
    _findings: tuple[ConfigIndex, Mapping[str, tuple[ResourceFinding, ...]]] | None = (
        None
    )

    def update(self, mesh: MeshState) -> bool:
        """Move on to this state. Returns whether any proxy's resources may have changed."""
        before, self.mesh = self.mesh, mesh
        stale = stale_after(before, mesh)
        is_config_new = self._index is None or Stale.INDEX in stale

        if Stale.INBOUND in stale:
            self._inbound.clear()
            self._layers.clear()

        if Stale.DECLARED_PORTS in stale:
            self._declared = declared_ports(mesh.declared.values())
            self._forwarded = forwarded_ports(mesh.declared.values())

        # Gateways name services and their ports: they look at more than the config alone.
        if self._serve(before, mesh) or Stale.GATEWAYS in stale:
            self._gateways.clear()

        if is_config_new:
            self._index_config(mesh)

        touched = [view.update(mesh, self._current()) for view in self._views.values()]
        is_changed = is_config_new or any(touched)
        if is_changed:
            self._snapshots.clear()
            self._book.update(mesh)

        return is_changed

    def _index_config(self, mesh: MeshState) -> None:
        """Index a new config, and let go of what nobody asked for under the last one."""
        self._forget_positions()
        self._index = ConfigIndex(mesh, self._delegation)
        self._policies = PolicyIndex(mesh)
        # Scopes follow from the config: those that no proxy asked for since its last change are
        # gone.
        self._views = {
            scope: view for scope, view in self._views.items() if view.is_used
        }
        for view in self._views.values():
            view.is_used = False
        # One view there always is, so that problems are found before any proxy connects.
        self._view(self._index.scope_of(Proxy(id="")))

    def snapshot(self, proxy: Proxy) -> Snapshot:
        """What this proxy is to have. Proxies in the same position get the same object."""
        if self._index is None:
            self.update(self.mesh)
        plain = self._plain_snapshot(proxy)
        patcher = self._book.patcher(proxy)
        return plain if patcher is None else patcher.apply(plain)

    def _plain_snapshot(self, proxy: Proxy) -> Snapshot:
        if not proxy.locality and self._localities:
            proxy = replace(proxy, locality=self._localities.get(proxy.address, ""))
        scope = self._current().scope_of(proxy)
        # A Sidecar says nothing to gateways.
        if proxy.kind is WorkloadKind.GATEWAY:
            return self._gateway_snapshot(proxy, replace(scope, sidecar=None))

        own = self._inbound_of(proxy, scope)
        found = self._snapshots.get((scope, own))

        if found is None:
            shared = self._view(scope).shared
            own_clusters, own_listeners = self._layered(scope, own)
            secrets = [named(SECRET, s) for s in file_secrets(own.secrets)]
            found = replace(shared, clusters=own_clusters, listeners=own_listeners)
            # Without any of its own it keeps the very set that all share.
            if secrets:
                found = replace(
                    found, secrets=ResourceSet(secrets, base=shared.secrets)
                )
            self._snapshots[scope, own] = found

        return found

    def problems(self) -> dict[str, str]:
        """What is left out and why, by the host or the resource that suffers."""
        found = {
            host: problem.message
            for view in self._views.values()
            for host, problem in view.problems.items()
        }
        noted = [(finding.resource, finding.message) for finding in self._noted()]
        for name, reason in noted:
            found[name] = f"{found[name]}; {reason}" if name in found else reason
        return found

    def findings(self, resource: str) -> tuple[ResourceFinding, ...]:
        """What of a resource (`Kind namespace/name`) has no effect, as far as any proxy was told of
        it.
        """
        if self._index is None:
            return ()
        if self._findings is None or self._findings[0] is not self._index:
            self._findings = (self._index, findings_of_config(self._index))
        found = dict.fromkeys(self._findings[1].get(resource, ()))

        for view in self._views.values():
            for problem in view.problems.values():
                if resource in problem.left_out:
                    found[
                        ResourceFinding(
                            resource, Reason.NOT_TRANSLATED, problem.message
                        )
                    ] = None

        found.update(
            (finding, None) for finding in self._noted() if finding.resource == resource
        )
        return tuple(found)

    def _noted(self) -> Iterator[ResourceFinding]:
        """What gateways and EnvoyFilters note while they are translated."""
        for made in self._gateways.values():
            yield from made.findings
        for name, reason in self._book.problems():
            yield ResourceFinding(name, Reason.NOT_TRANSLATED, reason)

    def distrust(self, proxy: Proxy, type_url: str, reason: str) -> bool:
        """A proxy has refused resources of a type: leave EnvoyFilters out of those that the reason
        names.

        Returns whether that changes what proxies are told.
        """
        patcher = self._book.patcher(proxy)
        return patcher is not None and patcher.distrust(type_url, reason)

    def _current(self) -> ConfigIndex:
        if self._index is None:
            raise RuntimeError("the translator was asked before its first update")
        return self._index

    def _view(self, scope: Scope) -> SidecarView:
        found = self._views.get(scope)
        if found is None:
            found = self._views[scope] = SidecarView(scope, self.counters)
            # What was translated for another scope holds here too wherever its inputs are the same.
            alike = (
                v
                for v in self._views.values()
                if (v.scope.locality, v.scope.labels) == _place(scope)
            )
            found.services.update(next((v.services for v in alike if v.services), {}))
            found.update(self.mesh, self._current())

        found.is_used = True
        return found

    # what a proxy has of its own
    # ------------------------------------------------------------------------------

    def _inbound_of(self, proxy: Proxy, scope: Scope) -> Inbound:
        modes = self._current().peer_policies.modes(proxy.namespace, proxy.labels)
        if not proxy.has_certificate:
            modes = modes.without_certificate()
        served = inbound.served_ports(self._inbound_ports(proxy), scope.sidecar)
        return Inbound(served, modes, self._policies.of(proxy))

    def _inbound_ports(self, proxy: Proxy) -> tuple[Port, ...]:
        served = self._served.get(proxy.address, {})
        if proxy.workload is not None:
            # A ServiceEntry may lead to ports of the workload that nobody declared: clients'
            # proxies call them, too.
            own = {port.number: port for port in workload_ports(proxy.workload)}
            served = {**self._declared.get(proxy.address, {}), **own}
        return tuple(served[number] for number in sorted(served))

    def _layered(self, scope: Scope, own: Inbound) -> tuple[ResourceSet, ResourceSet]:
        """The clusters and listeners of sidecars that serve these ports: their own over the shared
        ones.
        """
        shared = self._view(scope).shared
        self._asked.add((scope, own))
        found = self._layers.get((scope, own))

        if (
            found is None
            or found[0].base is not shared.clusters
            or found[1].base is not shared.listeners
        ):
            own_clusters, own_listener = self._inbound_resources(own)
            found = self._layers[scope, own] = (
                ResourceSet(own_clusters, base=shared.clusters),
                ResourceSet([own_listener], base=shared.listeners),
            )

        return found

    def _forget_positions(self) -> None:
        """Let go of what no proxy asked for since the last change of the config, such as replaced
        policies.
        """
        self._layers = {
            position: layer
            for position, layer in self._layers.items()
            if position in self._asked
        }
        kept = {own for _, own in self._asked}
        self._inbound = {
            own: made for own, made in self._inbound.items() if own in kept
        }
        self._asked.clear()

    def _inbound_resources(self, own: Inbound) -> tuple[tuple[Resource, ...], Resource]:
        found = self._inbound.get(own)
        if found is None:
            self.counters.inbound += 1
            clusters = tuple(
                named(CLUSTER, c) for c in inbound.inbound_clusters(own.served)
            )
            found = self._inbound[own] = (
                clusters,
                named(LISTENER, inbound_listener(own, self.mesh.settings)),
            )
        return found

    def _serve(self, before: MeshState, mesh: MeshState) -> bool:
        """Keep the index from addresses to served ports, for proxies that are known by their
        address alone.

        Returns whether more than endpoints changed.
        """
        changed = [
            host
            for host, item in mesh.services.items()
            if before.services.get(host) is not item
        ]
        # Everything old first: an address may go from one service to another in one change.
        for host in (*(before.services.keys() - mesh.services.keys()), *changed):
            old = before.services.get(host)
            # What a project has for itself are endpoints of the shared service.
            if old is not None and not old.project:
                self._forget(old)

        is_reshaped = before.services.keys() != mesh.services.keys()
        for host in changed:
            new = mesh.services[host]
            is_reshaped = is_reshaped or _shape(before.services[host]) != _shape(new)
            if not new.project:
                self._remember(new)

        return is_reshaped

    def _remember(self, service: Service) -> None:
        protocols = {port.number: port.protocol for port in service.ports}
        for endpoint in service.endpoints:
            protocol = protocols.get(
                endpoint.service_port or endpoint.port, Protocol.AUTO
            )
            self._served.setdefault(endpoint.address, {})[endpoint.port] = Port(
                endpoint.port, protocol
            )
            if endpoint.locality:
                self._localities[endpoint.address] = endpoint.locality

    def _forget(self, service: Service) -> None:
        for endpoint in service.endpoints:
            self._localities.pop(endpoint.address, None)
            served = self._served.get(endpoint.address)
            if served is not None:
                served.pop(endpoint.port, None)
                if not served:
                    del self._served[endpoint.address]

    def _gateway_snapshot(self, proxy: Proxy, scope: Scope) -> Snapshot:
        policies = self._policies.of(proxy)
        targets = self._forwarded.get((proxy.namespace, proxy.address), {})
        key = (
            scope,
            as_labels(proxy.labels),
            proxy.namespace,
            policies,
            tuple(sorted(targets.items())),
        )
        found = self._snapshots.get(key)

        if found is None:
            shared = self._view(scope).shared
            made = self._gateways.get(key)

            if made is None:
                self.counters.gateways += 1
                where = Destinations(self.mesh, self._current(), scope)
                made = gateway_resources(where, proxy, policies, targets)
                self._gateways[key] = made

            secrets = [named(SECRET, s) for s in file_secrets(made.secrets)]
            found = self._snapshots[key] = Snapshot(
                clusters=(
                    ResourceSet(
                        (named(CLUSTER, c) for c in made.clusters), base=shared.clusters
                    )
                    if made.clusters
                    else shared.clusters
                ),
                endpoints=shared.endpoints,
                listeners=ResourceSet(named(LISTENER, item) for item in made.listeners),
                routes=ResourceSet(named(ROUTES, table) for table in made.tables),
                secrets=ResourceSet(secrets, base=shared.secrets),
            )

        return found


def _place(scope: Scope) -> tuple[object, object]:
    return scope.locality, scope.labels


def declared_ports(services: Iterable[Service]) -> dict[str, dict[int, Port]]:
    """The ports to which ServiceEntries lead, by address and number."""
    found: dict[str, dict[int, Port]] = {}
    for service in services:
        protocols = {port.number: port.protocol for port in service.ports}
        for endpoint in service.endpoints:
            protocol = protocols.get(
                endpoint.service_port or endpoint.port, Protocol.AUTO
            )
            if protocol is not Protocol.UDP:
                found.setdefault(endpoint.address, {}).setdefault(
                    endpoint.port, Port(endpoint.port, protocol)
                )

    return found


def forwarded_ports(
    services: Iterable[Service],
) -> dict[tuple[str, str], dict[int, int]]:
    """Where ServiceEntries forward their ports to, by namespace and address; of several the first
    by name counts.

    A service does not speak for proxies of other namespaces (Istio's rule).
    """
    found: dict[tuple[str, str], dict[int, int]] = {}
    for service in sorted(services, key=lambda s: s.hostname):
        for endpoint in service.endpoints:
            if endpoint.service_port and endpoint.service_port != endpoint.port:
                ports = found.setdefault((service.namespace, endpoint.address), {})
                ports.setdefault(endpoint.service_port, endpoint.port)

    return found


def workload_ports(workload: Workload) -> tuple[Port, ...]:
    """The ports of a workload, each once, by number."""
    ports = {
        p.port: Port(p.port, parse_protocol(p.protocol) or Protocol.AUTO)
        for p in workload.ports
    }
    return tuple(
        ports[number]
        for number in sorted(ports)
        if ports[number].protocol is not Protocol.UDP
    )


def _shape(service: Service) -> object:
    """What gateways look at of a service: its ports, and whether it is believed (`retries`)."""
    return service.ports, takes_mtls_alone(service)
