"""From the mesh's state to each proxy's snapshot, redoing only what a change touches.

Invariants:
- Sidecars in one scope (see `visibility.Scope`) share one set per type; only inbound resources are
  their own, and of those only clusters tell one service from another (see `sidecar.layers`).
- It does no I/O and reads no clock: the same state gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import chain

from dockermesh.model import Port, Protocol, Service, Workload, WorkloadKind
from dockermesh.model.protocol import agreed, parse_protocol
from dockermesh.translate.extensions.findings import plugin_findings, refusal_findings
from dockermesh.translate.extensions.layer import ExtensionLayer
from dockermesh.translate.gateway.reach import unpublished
from dockermesh.translate.gateway.resources import GatewayResources, gateway_resources
from dockermesh.translate.mesh.addresses import Addresses, answering
from dockermesh.translate.mesh.changes import Stale, hosts_changed, stale_after
from dockermesh.translate.mesh.conflicts import findings_of_config
from dockermesh.translate.mesh.delegates import Delegation
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.index import ConfigIndex
from dockermesh.translate.mesh.known_proxies import proxy_of, workloads_at
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.stand_in import takes_mtls_alone
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import Scope, as_labels
from dockermesh.translate.node.assembly import NodeAssembly, Part
from dockermesh.translate.node.listeners import Place
from dockermesh.translate.patches.book import PatchBook
from dockermesh.translate.provenance import Sources, sources_of
from dockermesh.translate.routes.destinations import Destinations
from dockermesh.translate.security.policies import PolicyIndex
from dockermesh.translate.security.rate_limits import LimitIndex, finds_nobody
from dockermesh.translate.sidecar import inbound
from dockermesh.translate.sidecar.inbound import Inbound, Owners
from dockermesh.translate.sidecar.inbound_pools import (
    calls_to,
    declared_calls,
    owners_of,
    with_pools,
)
from dockermesh.translate.sidecar.layers import Layer, Layers
from dockermesh.translate.sidecar.outbound import Counters, SidecarView, named
from dockermesh.translate.sidecar.outbound_service import plain_http_port
from dockermesh.translate.telemetry.findings import telemetry_findings
from dockermesh.translate.telemetry.layer import TelemetryLayer
from dockermesh.translate.telemetry.scraping import metrics_listener
from dockermesh.translate.tls.secrets import file_secrets
from dockermesh.xds.resources import (
    CLUSTER,
    EXTENSION,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
)
from dockermesh.xds.snapshot import ResourceSet, Snapshot

_MOVES_PROXIES = frozenset({Stale.INBOUND, Stale.DECLARED_PORTS})
_SPARE = 1_000

__all__ = ["Counters", "Translator", "plain_http_port", "workload_ports"]


@dataclass(frozen=True, slots=True)
class _Position:
    """Where a sidecar stands: what it is told follows from that alone."""

    proxy: Proxy
    scope: Scope
    layer: Layer
    owners: Owners

    def is_of(self, proxy: Proxy) -> bool:
        """Whether it is the same proxy with nothing changed."""
        own = self.proxy
        return own is proxy or (
            proxy.workload is own.workload
            and proxy.kind is own.kind
            and proxy.address == own.address
            and proxy.namespace == own.namespace
            and proxy.locality == own.locality
            and proxy.has_certificate == own.has_certificate
            and proxy.labels == own.labels
        )


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
    _limits: LimitIndex = field(default_factory=lambda: LimitIndex(MeshState()))
    _snapshots: dict[object, Snapshot] = field(default_factory=dict)
    _positions: dict[str, _Position] = field(default_factory=dict)
    _gateways: dict[object, GatewayResources] = field(default_factory=dict)
    _nodes: dict[str, NodeAssembly] = field(default_factory=dict)
    _addresses: Addresses = field(default_factory=Addresses)
    _declared: dict[str, dict[int, Port]] = field(default_factory=dict)
    _calls: dict[str, dict[int, tuple[str, int]]] = field(default_factory=dict)
    _forwarded: dict[tuple[str, str], dict[int, int]] = field(default_factory=dict)
    _book: PatchBook = field(default_factory=PatchBook)
    _metrics: tuple[MeshSettings, Resource] | None = None
    _telemetry: TelemetryLayer = field(default_factory=TelemetryLayer)
    _extensions: ExtensionLayer = field(default_factory=ExtensionLayer)
    _layers: Layers = field(init=False)
    _findings: tuple[ConfigIndex, Mapping[str, tuple[ResourceFinding, ...]]] | None = (
        None
    )

    def __post_init__(self) -> None:
        self._layers = Layers(self.counters)

    def update(self, mesh: MeshState) -> bool:
        """Move on to this state. Returns whether any proxy's resources may have changed."""
        before, self.mesh = self.mesh, mesh
        index_before = self._index
        stale = stale_after(before, mesh)
        is_config_new = self._index is None or Stale.INDEX in stale

        if Stale.INBOUND in stale:
            self._layers.clear()

        if Stale.DECLARED_PORTS in stale:
            self._declared = declared_ports(mesh.declared.values())
            self._calls = declared_calls(mesh.declared.values())
            self._forwarded = forwarded_ports(mesh.declared.values())

        # Gateways name services and their ports: they look at more than the config alone.
        is_reshaped = self._serve(before, mesh)
        if is_reshaped or Stale.GATEWAYS in stale:
            self._gateways.clear()

        if is_config_new:
            self._index_config(mesh)
        if is_config_new or is_reshaped or stale & _MOVES_PROXIES:
            self._positions.clear()

        index = self._current()
        others = self._others(before, index_before)
        touched = [
            # Where an update broke off, views after it are at what was before.
            v.update(mesh, index, others if v.is_at(before, index_before) else None)
            for v in self._views.values()
        ]
        is_changed = is_config_new or any(touched)
        if is_changed:
            self._snapshots.clear()
            self._telemetry.forget()
            self._extensions.forget()
            self._book.update(mesh)

        return is_changed

    def _others(
        self, before: MeshState, index_before: ConfigIndex | None
    ) -> Set[str] | None:
        """The hosts of which anything is another than before; None: it may be any of them."""
        if index_before is None:
            return None
        ruled = self._current().rules_changed_since(index_before)
        return None if ruled is None else hosts_changed(before, self.mesh, ruled)

    def _index_config(self, mesh: MeshState) -> None:
        """Index a new config, and let go of what nobody asked for under the last one."""
        self._layers.forget()
        self._index = ConfigIndex(mesh, self._delegation, self._index)
        self._policies = PolicyIndex(mesh)
        self._limits = LimitIndex(mesh)
        before, self._telemetry = self._telemetry, TelemetryLayer(mesh)
        self._telemetry.follow(before)
        self._extensions = ExtensionLayer(mesh, self._extensions)
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
        if proxy.kind is WorkloadKind.NODE:
            return self._node_snapshot(proxy)
        # Patches come last: a user's may be about our logs, too.
        made = self._layered_snapshot(proxy)
        patcher = self._book.patcher(proxy)
        return made if patcher is None else patcher.apply(made)

    def _layered_snapshot(self, proxy: Proxy) -> Snapshot:
        """With what is made of translated listeners."""
        plain = self._extensions.apply(self._plain_snapshot(proxy), proxy)
        return self._telemetry.apply(plain, proxy)

    def _node_snapshot(self, node: Proxy) -> Snapshot:
        """What the workloads of a node have, without patches, which are made for one workload."""
        assembly = self._nodes.setdefault(node.id, NodeAssembly())
        parts = []
        for workload in workloads_at(node, self.mesh):
            proxy = proxy_of(workload, {})
            made = self._layered_snapshot(proxy)
            identity = str(workload.identity(self.mesh.settings.trust_domain))
            place = Place(workload.name, identity, workload.network_namespace)
            parts.append(Part(place, made))
        return assembly.assemble(parts)

    def _plain_snapshot(self, given: Proxy) -> Snapshot:
        known = self._positions.get(given.id)
        if known is not None and known.is_of(given):
            return self._sidecar_snapshot(known)

        proxy = given
        if not proxy.locality and self._addresses.has_localities:
            proxy = replace(proxy, locality=self._addresses.locality(proxy.address))
        scope = self._current().scope_of(proxy)
        # A Sidecar says nothing to gateways.
        if proxy.kind is WorkloadKind.GATEWAY:
            return self._gateway_snapshot(proxy, replace(scope, sidecar=None))

        return self._sidecar_snapshot(self._position_of(given, proxy, scope))

    def _sidecar_snapshot(self, at: _Position) -> Snapshot:
        layer, owners = at.layer, at.owners
        found = self._snapshots.get((layer, owners))

        if found is None:
            shared = self._view(at.scope).shared
            own_clusters, own_listeners = self._layers.sets(
                layer, owners, shared, self.mesh.settings, self._scraped(at.scope)
            )
            secrets = [named(SECRET, s) for s in file_secrets(layer.inbound.secrets)]
            found = shared.with_own(own_clusters, own_listeners)
            # Without any of its own it keeps the very set that all share.
            if secrets:
                found = found.with_secrets(ResourceSet(secrets, base=shared.secrets))
            self._snapshots[layer, owners] = found

        return found

    def problems(self) -> dict[str, str]:
        """What is left out and why, by the host or the resource that suffers."""
        found = {
            host: problem.message
            for view in self._views.values()
            for host, problem in view.problems.items()
        }
        noted = [(finding.resource, finding.message) for finding in self._noted()]
        for assembly in self._nodes.values():
            found.update(assembly.problems)
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
            self._findings = (self._index, self._findings_of_config(self._index))
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
        found.update((finding, None) for finding in self._unreachable(resource))
        return tuple(found)

    def _findings_of_config(
        self, index: ConfigIndex
    ) -> Mapping[str, tuple[ResourceFinding, ...]]:
        found = dict(findings_of_config(index))
        of_plugins = plugin_findings(index.config.wasm_plugins, self.mesh.modules)
        for finding in chain(telemetry_findings(index), of_plugins):
            found[finding.resource] = (*found.get(finding.resource, ()), finding)
        return found

    def _unreachable(self, resource: str) -> Iterator[ResourceFinding]:
        # Not kept: workloads come and go without a new config.
        for gateway in self.mesh.config.gateways:
            if str(gateway) == resource:
                yield from unpublished(
                    gateway, self.mesh.workloads.values(), self._forwarded
                )

        root = self.mesh.settings.root_namespace
        for limit in self.mesh.config.rate_limits:
            if str(limit) == resource and finds_nobody(
                limit, self.mesh.workloads.values(), root
            ):
                text = f"spec: no workload in the reach of namespace {limit.namespace} is limited"
                yield ResourceFinding(resource, Reason.NO_WORKLOADS, text)

    def _noted(self) -> Iterator[ResourceFinding]:
        """What gateways and EnvoyFilters note while they are translated."""
        for made in self._gateways.values():
            yield from made.findings
        yield from refusal_findings(self._extensions.refused())
        for name, reason in self._book.problems():
            yield ResourceFinding(name, Reason.NOT_TRANSLATED, reason)

    def sources(
        self, proxy: Proxy, told: ResourceSet, type_url: str, names: Iterable[str]
    ) -> Sources:
        """The resources of the config of which these Envoy resources were made that a proxy is
        told of.
        """
        patcher = self._book.patcher(proxy)
        policies, limits = self._policies.of(proxy), self._limits.of(proxy)
        found = Sources()

        for name in names:
            resource = told.get(name)
            body = resource.any_bytes if resource is not None else b""
            found |= sources_of(
                type_url, name, body, proxy, self.mesh.config, policies, limits
            )
            if type_url == LISTENER:
                logging = self._telemetry.levels(proxy)
                found |= Sources(possible=frozenset(map(str, logging)))
            if type_url in (LISTENER, EXTENSION):
                plugins = self._extensions.plugins(proxy)
                certain = (str(p.source) for p in plugins if p.is_in(name, body))
                found |= Sources(frozenset(certain))
            if patcher is not None:
                found |= Sources(patcher.filters_of(type_url, name))

        return found

    def distrust(self, proxy: Proxy, type_url: str, reason: str) -> bool:
        """A proxy has refused resources of a type: leave EnvoyFilters out of those that the reason
        names, and the modules of WasmPlugins that it names.

        Returns whether that changes what proxies are told.
        """
        if self._extensions.distrust(reason):
            return True
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

    def _position_of(self, given: Proxy, proxy: Proxy, scope: Scope) -> _Position:
        """Where a sidecar stands, which holds until more than endpoints of others change. `given`
        is the proxy as it is asked for, `proxy` with the locality that is known of it.
        """
        # Nobody tells which proxies are gone.
        if len(self._positions) > 2 * len(self.mesh.workloads) + _SPARE:
            self._positions.clear()
        own, owners = self._inbound_of(proxy, scope)
        found = _Position(given, scope, self._layers.at(scope, own), owners)
        self._positions[given.id] = found
        return found

    # what a proxy has of its own
    # ------------------------------------------------------------------------------

    def _inbound_of(self, proxy: Proxy, scope: Scope) -> tuple[Inbound, Owners]:
        modes = self._current().peer_policies.modes(proxy.namespace, proxy.labels)
        if not proxy.has_certificate:
            modes = modes.without_certificate()
        calls = calls_to(proxy, self._calls.get(proxy.address, {}), self.mesh, scope)
        ports = inbound.served_ports(self._inbound_ports(proxy), scope.sidecar)
        own = Inbound(
            with_pools(ports, calls, self.mesh, self._current(), scope),
            modes,
            self._policies.of(proxy),
            self._limits.of(proxy),
            self._identity(proxy, scope),
        )
        return own, owners_of(own.served, calls, self.mesh)

    def _identity(self, proxy: Proxy, scope: Scope) -> str:
        if proxy.workload is None or not scope.at_node:
            return ""
        return str(proxy.workload.identity(self.mesh.settings.trust_domain))

    def _inbound_ports(self, proxy: Proxy) -> tuple[Port, ...]:
        served = self._addresses.ports(proxy.address)
        if proxy.workload is not None:
            # A ServiceEntry may lead to ports of the workload that nobody declared: clients'
            # proxies call them, too.
            own = {port.number: port for port in workload_ports(proxy.workload)}
            served = {**self._declared.get(proxy.address, {}), **own}
        return tuple(served[number] for number in sorted(served))

    def _scraped(self, scope: Scope) -> list[Resource]:
        # Without a certificate it could not prove to be who is asked.
        if not scope.has_certificate:
            return []
        settings = self.mesh.settings
        if self._metrics is None or self._metrics[0] is not settings:
            self._metrics = settings, named(LISTENER, metrics_listener(settings))
        return [self._metrics[1]]

    def _serve(self, before: MeshState, mesh: MeshState) -> bool:
        """Follow the services' endpoints. Returns whether more than those changed."""
        known = before.services
        changed = [h for h, item in mesh.services.items() if known.get(h) is not item]
        moved = self._addresses.follow(known, mesh.services, changed)
        if moved:
            self._positions = {
                name: at
                for name, at in self._positions.items()
                if at.proxy.address not in moved
            }
        return known.keys() != mesh.services.keys() or any(
            _shape(known[host]) != _shape(mesh.services[host]) for host in changed
        )

    def _gateway_snapshot(self, proxy: Proxy, scope: Scope) -> Snapshot:
        policies, limits = self._policies.of(proxy), self._limits.of(proxy)
        targets = self._forwarded.get((proxy.namespace, proxy.address), {})
        key = (
            scope,
            as_labels(proxy.labels),
            proxy.namespace,
            policies,
            limits,
            tuple(sorted(targets.items())),
            proxy.workload.bridges if proxy.workload is not None else (),
        )
        found = self._snapshots.get(key)

        if found is None:
            shared = self._view(scope).shared
            made = self._gateways.get(key)

            if made is None:
                self.counters.gateways += 1
                where = Destinations(self.mesh, self._current(), scope)
                made = gateway_resources(where, proxy, policies, targets, limits)
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
                listeners=ResourceSet(
                    [
                        *(named(LISTENER, item) for item in made.listeners),
                        *self._scraped(scope),
                    ]
                ),
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
        for endpoint, protocol in answering(service):
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
    """The TCP ports of a workload, each once, by number."""
    protocols: dict[int, Protocol] = {}
    for served in workload.ports:
        protocol = parse_protocol(served.protocol) or Protocol.AUTO
        protocols[served.port] = agreed(protocols.get(served.port), protocol)
    return tuple(
        Port(number, protocol)
        for number, protocol in sorted(protocols.items())
        if protocol is not Protocol.UDP
    )


def _shape(service: Service) -> object:
    """What gateways look at of a service: its ports, and whether it is believed (`retries`)."""
    return service.ports, service.is_meshed, takes_mtls_alone(service)
