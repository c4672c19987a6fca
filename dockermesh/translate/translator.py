"""From the mesh's state to each proxy's snapshot, redoing only what a change touches.

Invariants:
- `update` translates the services that are new objects and no other; a service whose ports and names stayed keeps its
  clusters, listeners and routes, so that a change of endpoints touches EDS alone.
- Sidecars share one set per type; only inbound resources are their own, and those are shared by replicas that serve
  the same ports. Sets that did not change stay the same objects.
- It does no I/O and reads no clock: the same state gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dockermesh.model import Port, Protocol, Service, Workload, WorkloadKind
from dockermesh.model.protocol import parse_protocol
from dockermesh.translate import clusters, dns, inbound, listeners, routes
from dockermesh.translate.gateway import gateway_resources
from dockermesh.translate.mesh import MeshState, Proxy, host_names
from dockermesh.translate.names import INBOUND_PASSTHROUGH_CLUSTER, PASSTHROUGH_CLUSTER
from dockermesh.xds.protobuf import frame
from dockermesh.xds.resources import CLUSTER, ENDPOINTS, LISTENER, ROUTES, Resource, make_resource
from dockermesh.xds.snapshot import ResourceSet, Snapshot

DEFAULT_HTTP_PORT = 80
_VIRTUAL_HOSTS = 2  # field number in envoy.config.route.v3.RouteConfiguration


@dataclass(frozen=True, slots=True)
class Shape:
    """What a service's clusters, listeners and routes are made of: everything but its endpoints."""

    hostname: str
    ports: tuple[Port, ...]
    domains: tuple[str, ...]
    vip: str
    settings: Any


@dataclass(frozen=True, slots=True)
class _Translated:
    """The resources of one service. `hosts` are serialised virtual hosts by HTTP port."""

    service: Service
    shape: Shape
    clusters: tuple[Resource, ...]
    listeners: tuple[Resource, ...]
    tables: tuple[Resource, ...]
    hosts: Mapping[int, bytes]
    assignments: tuple[Resource, ...]


@dataclass(slots=True)
class Counters:
    """How much work was done since the start, for metrics and for tests that prove what is not redone."""

    services: int = 0
    assignments: int = 0
    tables: int = 0
    inbound: int = 0
    gateways: int = 0


@dataclass(slots=True)
class Translator:
    """Keeps the translation of one mesh; `update` moves it on, `snapshot` looks a proxy's part up."""

    mesh: MeshState = field(default_factory=MeshState)
    counters: Counters = field(default_factory=Counters)
    _services: dict[str, _Translated] = field(default_factory=dict)
    _sidecars: Snapshot = field(default_factory=Snapshot)
    _tables: dict[int, tuple[tuple[bytes, ...], Resource]] = field(default_factory=dict)
    _http_listeners: dict[int, Resource] = field(default_factory=dict)
    _fixed: tuple[Any, tuple[Resource, ...], tuple[Resource, ...]] | None = None
    _dns: tuple[tuple[tuple[str, str], ...], Resource] | None = None
    _inbound: dict[tuple[Port, ...], tuple[tuple[Resource, ...], Resource]] = field(default_factory=dict)
    _layers: dict[tuple[Port, ...], tuple[ResourceSet, ResourceSet]] = field(default_factory=dict)
    _snapshots: dict[object, Snapshot] = field(default_factory=dict)
    _gateways: dict[tuple[tuple[str, str], ...], tuple[tuple[Resource, ...], tuple[Resource, ...]]] = field(
        default_factory=dict
    )
    _served: dict[str, dict[int, Port]] = field(default_factory=dict)

    def update(self, mesh: MeshState) -> bool:
        """Move on to this state. Returns whether any proxy's shared resources may have changed."""
        before, self.mesh = self.mesh, mesh
        touched, reshaped = self._update_services(mesh, before)
        is_edge_same = mesh.edge is before.edge and mesh.settings is before.settings and mesh.names is before.names
        if not is_edge_same:
            self._gateways.clear()
        if touched or not is_edge_same or self._fixed is None:
            self._snapshots.clear()
        if reshaped or self._fixed is None:
            self._sidecars = self._share(mesh)
            return True
        if touched:
            assignments = [a for host in sorted(self._services) for a in self._services[host].assignments]
            self._sidecars = replace(self._sidecars, endpoints=_keep(self._sidecars.endpoints, assignments))
        return touched or not is_edge_same

    def snapshot(self, proxy: Proxy) -> Snapshot:
        """What this proxy is to have. Proxies in the same position get the same object."""
        if proxy.kind is WorkloadKind.GATEWAY:
            return self._gateway_snapshot(proxy.labels)
        ports = self._inbound_ports(proxy)
        found = self._snapshots.get(ports)
        if found is None:
            own_clusters, own_listeners = self._layered(ports)
            found = self._snapshots[ports] = replace(self._sidecars, clusters=own_clusters, listeners=own_listeners)
        return found

    # services -------------------------------------------------------------------------------------------------

    def _update_services(self, mesh: MeshState, before: MeshState) -> tuple[bool, bool]:
        """Translate what changed. Returns whether anything did, and whether it was more than endpoints."""
        is_all_new = mesh.names is not before.names or mesh.settings is not before.settings
        touched = reshaped = False
        for host in self._services.keys() - mesh.services.keys():
            self._forget(self._services.pop(host).service)
            touched = reshaped = True
        for host, service in mesh.services.items():
            old = self._services.get(host)
            if old is not None and old.service is service and not is_all_new:
                continue
            new = self._translate(service, old)
            if new is not old:
                self._services[host] = new
                self._serve(old.service if old else None, service)
                touched = True
                reshaped = reshaped or old is None or new.clusters is not old.clusters
        return touched, reshaped

    def _translate(self, service: Service, old: _Translated | None) -> _Translated:
        mesh = self.mesh
        domains = tuple(n for n in host_names(service) if mesh.names.get(n) == service.hostname)
        shape = Shape(service.hostname, service.ports, domains, mesh.vips.get(service.hostname, ""), mesh.settings)
        is_same_shape = old is not None and old.shape == shape
        if old is not None and is_same_shape and old.service is service:
            return old
        self.counters.services += 1
        assignments = self._assignments(service)
        if old is not None and is_same_shape:
            kept = tuple(o if o.version == n.version else n for o, n in zip(old.assignments, assignments, strict=True))
            return _Translated(service, shape, old.clusters, old.listeners, old.tables, old.hosts, kept)
        return self._translate_shape(service, shape, assignments)

    def _assignments(self, service: Service) -> tuple[Resource, ...]:
        self.counters.assignments += 1
        made = (clusters.load_assignment(service, port) for port in clusters.ports_of(service))
        return tuple(_resource(ENDPOINTS, message.cluster_name, message) for message in made)

    def _translate_shape(self, service: Service, shape: Shape, assignments: tuple[Resource, ...]) -> _Translated:
        made_clusters, made_listeners, made_tables, hosts = [], [], [], {}
        domains = [*shape.domains, shape.vip] if shape.vip else shape.domains
        for port in clusters.ports_of(service):
            made_clusters.append(_named(CLUSTER, clusters.service_cluster(service, port)))
            host = routes.virtual_host(service, port, domains, shape.settings)
            if port.protocol.is_http:
                hosts[port.number] = frame(_VIRTUAL_HOSTS, _bytes(host))
                continue
            if not shape.vip:
                continue
            made_listeners.append(_named(LISTENER, listeners.service_port(service, port, shape.vip)))
            if port.protocol is Protocol.AUTO:
                made_tables.append(self._sniffed_table(service, port, host))
        plain = plain_http_port(service)
        if plain is not None:
            host = routes.virtual_host(service, plain, domains, shape.settings, dialled=DEFAULT_HTTP_PORT)
            hosts[DEFAULT_HTTP_PORT] = frame(_VIRTUAL_HOSTS, _bytes(host))
        return _Translated(
            service, shape, tuple(made_clusters), tuple(made_listeners), tuple(made_tables), hosts, assignments
        )

    def _sniffed_table(self, service: Service, port: Port, host: Any) -> Resource:
        table = routes.table_frame(listeners.sniffed_route(service, port))
        # The client may call the service by any name: it already dialled this service's own address.
        host.domains[:] = ["*"]
        table.virtual_hosts.append(host)
        return _named(ROUTES, table)

    # what sidecars share --------------------------------------------------------------------------------------

    def _share(self, mesh: MeshState) -> Snapshot:
        translated = [self._services[host] for host in sorted(self._services)]
        fixed_clusters, fixed_listeners = self._fixed_resources(mesh)
        old = self._sidecars
        tables = self._port_tables(mesh, translated)
        http_listeners = [self._http_listener(port) for port in tables]
        return Snapshot(
            clusters=_keep(old.clusters, [*fixed_clusters, *(c for t in translated for c in t.clusters)]),
            endpoints=_keep(old.endpoints, [a for t in translated for a in t.assignments]),
            listeners=_keep(
                old.listeners,
                [
                    *fixed_listeners,
                    self._dns_listener(translated),
                    *http_listeners,
                    *(listener for t in translated for listener in t.listeners),
                ],
            ),
            routes=_keep(old.routes, [*tables.values(), *(table for t in translated for table in t.tables)]),
        )

    def _fixed_resources(self, mesh: MeshState) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
        if self._fixed is None or self._fixed[0] is not mesh.settings:
            made = (
                clusters.original_destination(PASSTHROUGH_CLUSTER),
                clusters.original_destination(INBOUND_PASSTHROUGH_CLUSTER, bind_source=True),
                clusters.black_hole(),
                clusters.dns_upstream(),
            )
            own = (listeners.virtual_outbound(allow_any=mesh.settings.allow_any), dns.dns_tcp_listener())
            self._fixed = (
                mesh.settings,
                tuple(_named(CLUSTER, c) for c in made),
                tuple(_named(LISTENER, item) for item in own),
            )
        return self._fixed[1], self._fixed[2]

    def _port_tables(self, mesh: MeshState, translated: Iterable[_Translated]) -> dict[int, Resource]:
        """The route table of every HTTP port, put together from virtual hosts that are bytes already."""
        by_port: dict[int, list[bytes]] = {}
        for entry in translated:
            for port, host in entry.hosts.items():
                by_port.setdefault(port, []).append(host)
        rest = frame(_VIRTUAL_HOSTS, _bytes(routes.catch_all(mesh.settings)))
        tables: dict[int, tuple[tuple[bytes, ...], Resource]] = {}
        for port in sorted(by_port):
            parts = (*by_port[port], rest)
            known = self._tables.get(port)
            if known is None or known[0] != parts:
                self.counters.tables += 1
                body = _bytes(routes.table_frame(str(port))) + b"".join(parts)
                known = (parts, make_resource(ROUTES, str(port), body))
            tables[port] = known
        self._tables = tables
        return {port: resource for port, (_, resource) in tables.items()}

    def _http_listener(self, port: int) -> Resource:
        found = self._http_listeners.get(port)
        if found is None:
            found = self._http_listeners[port] = _named(LISTENER, listeners.http_port(port))
        return found

    def _dns_listener(self, translated: Iterable[_Translated]) -> Resource:
        # A service of UDP alone is not carried by the mesh: Docker's resolver answers with its containers.
        carried = (t for t in translated if t.shape.vip and t.clusters)
        hosts = tuple((name, t.shape.vip) for t in carried for name in t.shape.domains)
        if self._dns is None or self._dns[0] != hosts:
            self._dns = (hosts, _named(LISTENER, dns.dns_listener(dns.dns_table(hosts))))
        return self._dns[1]

    # what a proxy has of its own ------------------------------------------------------------------------------

    def _inbound_ports(self, proxy: Proxy) -> tuple[Port, ...]:
        if proxy.workload is not None:
            return workload_ports(proxy.workload)
        served = self._served.get(proxy.address, {})
        return tuple(served[number] for number in sorted(served))

    def _layered(self, ports: tuple[Port, ...]) -> tuple[ResourceSet, ResourceSet]:
        """The clusters and listeners of sidecars that serve these ports: their own over the shared ones."""
        shared = self._sidecars
        found = self._layers.get(ports)
        if found is None or found[0].base is not shared.clusters or found[1].base is not shared.listeners:
            own_clusters, own_listener = self._inbound_resources(ports)
            found = self._layers[ports] = (
                ResourceSet(own_clusters, base=shared.clusters),
                ResourceSet([own_listener], base=shared.listeners),
            )
        return found

    def _inbound_resources(self, ports: tuple[Port, ...]) -> tuple[tuple[Resource, ...], Resource]:
        found = self._inbound.get(ports)
        if found is None:
            self.counters.inbound += 1
            own = tuple(_named(CLUSTER, c) for c in inbound.inbound_clusters(ports))
            found = self._inbound[ports] = (own, _named(LISTENER, inbound.inbound_listener(ports)))
        return found

    def _serve(self, old: Service | None, new: Service) -> None:
        """Keep the index from addresses to served ports, for proxies that are known by their address alone."""
        if old is not None:
            self._forget(old)
        protocols = {port.number: port.protocol for port in new.ports}
        for endpoint in new.endpoints:
            protocol = protocols.get(endpoint.service_port or endpoint.port, Protocol.AUTO)
            self._served.setdefault(endpoint.address, {})[endpoint.port] = Port(endpoint.port, protocol)

    def _forget(self, service: Service) -> None:
        for endpoint in service.endpoints:
            served = self._served.get(endpoint.address)
            if served is not None:
                served.pop(endpoint.port, None)
                if not served:
                    del self._served[endpoint.address]

    def _gateway_snapshot(self, labels: Mapping[str, str]) -> Snapshot:
        key = tuple(sorted(labels.items()))
        found = self._snapshots.get(key)
        if found is None:
            own = self._gateways.get(key)
            if own is None:
                self.counters.gateways += 1
                made = gateway_resources(self.mesh, labels)
                own = self._gateways[key] = (
                    tuple(_named(LISTENER, item) for item in made.listeners),
                    tuple(_named(ROUTES, table) for table in made.tables),
                )
            found = self._snapshots[key] = Snapshot(
                clusters=self._sidecars.clusters,
                endpoints=self._sidecars.endpoints,
                listeners=ResourceSet(own[0]),
                routes=ResourceSet(own[1]),
            )
        return found


def plain_http_port(service: Service) -> Port | None:
    """The port behind `http://<name>/`: the service's only HTTP port, unless it has a port 80 itself."""
    http = [port for port in service.ports if port.protocol.is_http]
    has_default = any(port.number == DEFAULT_HTTP_PORT for port in service.ports)
    return http[0] if len(http) == 1 and not has_default else None


def workload_ports(workload: Workload) -> tuple[Port, ...]:
    """The ports of a workload, each once, by number."""
    ports = {p.port: Port(p.port, parse_protocol(p.protocol) or Protocol.AUTO) for p in workload.ports}
    return tuple(ports[number] for number in sorted(ports) if ports[number].protocol is not Protocol.UDP)


def _bytes(message: Any) -> bytes:
    serialised: bytes = message.SerializeToString(deterministic=True)
    return serialised


def _resource(type_url: str, name: str, message: Any) -> Resource:
    return make_resource(type_url, name, _bytes(message))


def _named(type_url: str, message: Any) -> Resource:
    return _resource(type_url, message.name, message)


def _keep(old: ResourceSet, resources: list[Resource]) -> ResourceSet:
    """The set of these resources: the old object if nothing differs, so that comparing it costs nothing."""
    new = ResourceSet(resources)
    return old if new.version == old.version else new
