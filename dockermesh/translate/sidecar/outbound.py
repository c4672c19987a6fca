"""What all sidecars in one scope share: clusters, endpoints, outbound listeners, routes and
secrets.

Invariants:
- `update` translates services whose inputs changed and no other; a service whose ports, names and
  rules stayed keeps its clusters, listeners and routes, so that a change of endpoints touches EDS
  alone.
- Sets that did not change stay the same objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from dockermesh.config.api.sidecar import OutboundTrafficPolicyMode
from dockermesh.model import Service
from dockermesh.translate.clusters.cluster import (
    black_hole,
    original_destination,
)
from dockermesh.translate.envoy.dialled import called_table
from dockermesh.translate.envoy.isolation import TRANSLATION_ERRORS
from dockermesh.translate.envoy.listeners import SILENCE_S
from dockermesh.translate.envoy.names import (
    INBOUND_PASSTHROUGH_CLUSTER,
    PASSTHROUGH_CLUSTER,
)
from dockermesh.translate.mesh.index import ConfigIndex, MeshRules, UnknownHost
from dockermesh.translate.mesh.state import MeshState
from dockermesh.translate.mesh.visibility import Scope, is_visible
from dockermesh.translate.routes.destinations import Destinations
from dockermesh.translate.routes.tables import catch_all, table_frame
from dockermesh.translate.routes.tcp import (
    ANY_ADDRESS,
    Contribution,
    http_contribution,
    listener_body,
)
from dockermesh.translate.routes.virtual_service import dependencies
from dockermesh.translate.sidecar import (
    dns,
    outbound_listeners,
    outbound_service,
    undeclared,
)
from dockermesh.translate.sidecar.name_table import NameTable
from dockermesh.translate.sidecar.outbound_service import Inputs, Translated
from dockermesh.translate.tls.secrets import file_secrets
from dockermesh.xds.protobuf import frame, serialised
from dockermesh.xds.resources import (
    CLUSTER,
    LISTENER,
    ROUTES,
    SECRET,
    Resource,
    make_resource,
)
from dockermesh.xds.snapshot import ResourceSet, Snapshot


@dataclass(slots=True)
class Counters:
    """How much work was done since the start, for metrics and for tests that prove what is not
    redone.
    """

    services: int = 0
    assignments: int = 0
    tables: int = 0
    inbound: int = 0
    gateways: int = 0


@dataclass(frozen=True, slots=True)
class HostFinding:
    """Why a host lacks something, and the resources that are left out for it."""

    message: str
    left_out: tuple[str, ...] = ()


@dataclass(slots=True)
class SidecarView:
    """The translation of one scope, moved on by `update`."""

    scope: Scope
    counters: Counters
    shared: Snapshot = field(default_factory=Snapshot)
    index: ConfigIndex | None = None
    services: dict[str, Translated] = field(default_factory=dict)
    is_used: bool = True
    problems: dict[str, HostFinding] = field(default_factory=dict)
    _mesh: MeshState = field(default_factory=MeshState)
    _rules: MeshRules = field(default_factory=lambda: MeshRules(()))
    _imported: set[str] = field(default_factory=set)
    _tables: dict[int, tuple[tuple[bytes, ...], Resource]] = field(default_factory=dict)
    _http_parts: dict[tuple[int, bool], Contribution] = field(default_factory=dict)
    _listeners: dict[tuple[str, int], tuple[tuple[Contribution, ...], Resource]] = (
        field(default_factory=dict)
    )
    _fixed: tuple[tuple[Resource, ...], tuple[Resource, ...]] | None = None
    _dns: NameTable[tuple[str, ...], str] = field(default_factory=NameTable)
    _endpoints: NameTable[str, str] = field(default_factory=NameTable)

    @property
    def allow_any(self) -> bool:
        """Whether unknown destinations may be called."""
        sidecar = self.scope.sidecar
        policy = sidecar.spec.outbound_traffic_policy if sidecar is not None else None
        if policy is not None:
            return policy.mode is OutboundTrafficPolicyMode.ALLOW_ANY
        return self._mesh.settings.allow_any

    @property
    def allow_undeclared(self) -> bool:
        """Whether a virtual address may be called at ports that its service does not declare."""
        # Of one such address a node's proxy would have to know other endpoints for each project.
        return self.allow_any and not self.scope.at_node

    def is_at(self, mesh: MeshState, index: ConfigIndex | None) -> bool:
        """Whether this is the state that it was moved on to last."""
        return self._mesh is mesh and self.index is index

    def update(
        self, mesh: MeshState, index: ConfigIndex, others: Set[str] | None = None
    ) -> bool:
        """Move on to this state. Returns whether the shared resources may have changed. `others`
        are the hosts of which anything is another than before (`hosts_changed`), if that is known.
        """
        if self.is_at(mesh, index):
            return False
        before, self._mesh = self._mesh, mesh

        if index is not self.index:
            self.index, self._rules = index, index.mesh_rules(self.scope)
            # Of the config these depend on the settings alone, which are in no key of theirs: the
            # time that a listener waits for first bytes, how paths are normalised.
            if self._fixed is None or before.settings is not mesh.settings:
                self._fixed = None
                self._http_parts.clear()
                self._listeners.clear()

        where = Destinations(mesh, index, self.scope)
        touched, reshaped = self._update_services(where, others)
        if reshaped or self._fixed is None:
            self.shared = self._share()
            return True

        # Only endpoints: the sets of all other types stay the same objects, and sets are compared
        # by identity first.
        if touched:
            made = [
                a
                for host in sorted(self.services)
                for a in self.services[host].assignments
            ]
            self.shared = replace(
                self.shared, endpoints=_keep(self.shared.endpoints, made)
            )

        return touched

    # services
    # ----------------------------------------------------------------------------------------------

    def _visible(self) -> Mapping[str, Service]:
        """The services that this scope may see; destinations of its rules are among them, without
        routes.
        """
        mesh, scope = self._mesh, self.scope
        covered = _covered(mesh, scope.project)

        # The usual case costs no look at each service.
        if scope.sidecar is None and _is_all_exported(mesh):
            self._imported = mesh.services.keys() - covered
            return mesh.services

        default = mesh.settings.service_export_to
        names = mesh.names_in(scope.project)
        exported = {
            host: item
            for host, item in mesh.services.items()
            if is_visible(item, scope.namespace, default)
        }
        self._imported = {
            host
            for host, item in exported.items()
            if host not in covered
            and scope.imports(
                item.namespace,
                [host, *item.aliases, *outbound_service.visible_domains(item, names)],
            )
        }
        # A rule may lead to what the Sidecar does not list. Without a cluster its requests would be
        # answered 503.
        wanted = self._imported | self._rules.targets(names)

        return {host: item for host, item in exported.items() if host in wanted}

    def _update_services(
        self, where: Destinations, others: Set[str] | None
    ) -> tuple[bool, bool]:
        """Translate what changed: of `others` alone, if that is known, or what leads to them.
        Returns whether anything did, and whether it was more than endpoints.
        """
        imported = self._imported
        visible = self._visible()
        unknown = {u.host: u for u in self._rules.unknown_hosts(where.mesh, visible)}

        gone = self.services.keys() - visible.keys() - unknown.keys()
        for host in gone:
            del self.services[host]
            self.problems.pop(host, None)

        touched, is_reshaped = self._update_visible(visible, where, others)
        is_added = self._update_unknown(unknown, where)
        # What is imported decides which services have routes, also where none is a new object.
        reshaped = is_reshaped or is_added or bool(gone) or imported != self._imported

        return touched or reshaped, reshaped

    def _update_visible(
        self,
        visible: Mapping[str, Service],
        where: Destinations,
        others: Set[str] | None,
    ) -> tuple[bool, bool]:
        touched = reshaped = False
        for host, item in visible.items():
            old = self.services.get(host)
            # A rule's routes are made of the services that it leads to, too.
            if (
                old is not None
                # Else the host was routed as one that nobody has, for the scope did not see it.
                and old.service is not None
                and others is not None
                and host not in others
                and not any(d.host in others for d in old.inputs.dependencies)
            ):
                continue

            new = self._translate(item, old, where)
            if new is not old:
                self.services[host] = new
                touched = True
                # By identity: `_translate` keeps the old inputs where the new ones equal them.
                reshaped = reshaped or old is None or new.inputs is not old.inputs

        return touched, reshaped

    def _update_unknown(
        self, unknown: Mapping[str, UnknownHost], where: Destinations
    ) -> bool:
        """Translate the hosts that no service has. Returns whether any changed."""
        is_changed = False
        for host, missing in unknown.items():
            old = self.services.get(host)
            inputs = Inputs(
                hostname=host,
                ports=(),
                domains=missing.domains,
                vip="",
                settings=where.mesh.settings,
                rule=missing.rule,
                dependencies=dependencies(missing.rule, where),
                caller=outbound_service.caller(missing.rule, where),
                view=where.scope.view,
            )

            if old is None or old.service is not None or old.inputs != inputs:
                self.counters.services += 1
                self.services[host] = self._unknown(missing, inputs, where)
                is_changed = True

        return is_changed

    def _translate(
        self, item: Service, old: Translated | None, where: Destinations
    ) -> Translated:
        domains = outbound_service.visible_domains(
            item, where.mesh.names_in(self.scope.project)
        )
        # What is only led to has clusters and no routes, so no rule of its own either.
        rule = self._rules.of(item) if item.hostname in self._imported else None
        inputs = outbound_service.inputs_of(item, domains, rule, where)
        # Without a service it was a host that nobody had, and has no clusters to keep.
        is_same = old is not None and old.service is not None and old.inputs == inputs
        if old is not None and is_same and old.service is item:
            return old

        self.counters.services += 1
        self.counters.assignments += 1

        if old is not None and is_same:
            return _with_endpoints_of(old, item, where)
        return self._translate_safely(item, inputs, where)

    def _translate_safely(
        self, item: Service, inputs: Inputs, where: Destinations
    ) -> Translated:
        """The service's resources; without the rules that cannot be translated, so that no other
        one suffers.
        """
        reasons: list[str] = []
        for attempt, left_out in _attempts(inputs):
            try:
                made = outbound_service.translate(item, attempt, where)
            except TRANSLATION_ERRORS as error:
                reasons.append(str(error))
                continue

            if left_out:
                message = f"{', '.join(left_out)} cannot be translated: {reasons[0]}"
                self.problems[item.hostname] = HostFinding(message, left_out)
            else:
                self.problems.pop(item.hostname, None)

            # The full inputs, not those of the attempt: the next ones would differ from these, and
            # broken rules would be tried again at every comparison.
            return replace(made, inputs=inputs)

        self.problems[item.hostname] = HostFinding(
            f"{item.hostname} cannot be translated: {reasons[-1]}"
        )
        return Translated(item, inputs)

    def _unknown(
        self, missing: UnknownHost, inputs: Inputs, where: Destinations
    ) -> Translated:
        try:
            made = outbound_service.translate_unknown(missing, inputs, where)
        except TRANSLATION_ERRORS as error:
            rule = str(missing.rule)
            self.problems[missing.host] = HostFinding(
                f"{rule} cannot be translated: {error}", (rule,)
            )
            return Translated(None, inputs)
        self.problems.pop(missing.host, None)
        return made

    # what is shared
    # -------------------------------------------------------------------------------------------

    def _share(self) -> Snapshot:
        # By name: the order of resources is part of no version, but that of virtual hosts and
        # filter chains is, and replicas of the control plane have to agree on it.
        translated = [self.services[host] for host in sorted(self.services)]
        called = self._called(translated)
        fixed_clusters, fixed_listeners = self._fixed_resources()
        old = self.shared
        tables = self._port_tables(called)
        ports = self._port_listeners(called, tables)
        secrets = file_secrets(chain.from_iterable(t.secrets for t in translated))

        return Snapshot(
            clusters=_keep(
                old.clusters,
                [*fixed_clusters, *chain.from_iterable(t.clusters for t in translated)],
            ),
            endpoints=_keep(
                old.endpoints, [*chain.from_iterable(t.assignments for t in translated)]
            ),
            listeners=_keep(
                old.listeners,
                [
                    *fixed_listeners,
                    self._dns_listener(called),
                    *self._endpoints_listener(called),
                    *ports,
                ],
            ),
            routes=_keep(
                old.routes,
                [*tables.values(), *chain.from_iterable(t.tables for t in called)],
            ),
            secrets=_keep(old.secrets, [named(SECRET, s) for s in secrets]),
        )

    def _called(self, translated: Iterable[Translated]) -> list[Translated]:
        # Destinations that are not imported have clusters, but nobody can call them by name.
        return [
            t
            for t in translated
            if t.service is None or t.service.hostname in self._imported
        ]

    def _fixed_resources(self) -> tuple[tuple[Resource, ...], tuple[Resource, ...]]:
        if self._fixed is None:
            at_node = self.scope.at_node
            made = [
                original_destination(PASSTHROUGH_CLUSTER, at_node=at_node),
                original_destination(
                    INBOUND_PASSTHROUGH_CLUSTER, bind_source=True, at_node=at_node
                ),
                black_hole(),
                *([undeclared.endpoints_cluster()] if self.allow_undeclared else ()),
            ]
            own = (
                outbound_listeners.virtual_outbound(
                    allow_any=self.allow_any, allow_undeclared=self.allow_undeclared
                ),
            )
            self._fixed = (
                tuple(named(CLUSTER, c) for c in made),
                tuple(named(LISTENER, item) for item in own),
            )

        return self._fixed

    def _port_tables(self, translated: Iterable[Translated]) -> dict[int, Resource]:
        """The route table of every HTTP port, put together from virtual hosts that are bytes
        already.
        """
        by_port: dict[int, list[bytes]] = {}
        for entry in translated:
            for port, host in entry.hosts.items():
                if self._has_listener(entry, port):
                    by_port.setdefault(port, []).append(host)

        undeclared_routes = (
            [undeclared.undeclared_route()] if self.allow_undeclared else []
        )
        others = catch_all(undeclared_routes, allow_any=self.allow_any)
        rest = frame(outbound_service.VIRTUAL_HOSTS, serialised(others))
        tables: dict[int, tuple[tuple[bytes, ...], Resource]] = {}

        for port in sorted(by_port):
            # Last for readers alone: Envoy tries the domain `*` last, wherever it stands.
            parts = (*by_port[port], rest)
            known, name = self._tables.get(port), self.scope.table(str(port))

            if known is None or known[0] != parts:
                self.counters.tables += 1
                # Fields of one number that follow each other are a repeated field, so serialised
                # virtual hosts behind a serialised frame are a serialised table.
                body = serialised(called_table(table_frame(name))) + b"".join(parts)
                known = (parts, make_resource(ROUTES, name, body))

            tables[port] = known

        self._tables = tables
        return {port: resource for port, (_, resource) in tables.items()}

    def _has_listener(self, entry: Translated, port: int) -> bool:
        """Whether the Sidecar's listener for this port takes the service in."""
        if self.scope.sidecar is None or entry.service is None:
            return True
        return self.scope.imports(entry.service.namespace, entry.inputs.domains, port)

    def _http_part(self, port: int, *, is_judged: bool) -> Contribution:
        found = self._http_parts.get((port, is_judged))
        if found is not None:
            return found

        made = outbound_listeners.http_port_chain(
            port,
            self.scope.table(str(port)),
            self._mesh.settings,
            is_judged=is_judged,
            allow_undeclared=self.allow_undeclared,
        )
        return http_contribution(ANY_ADDRESS, port, made)

    def _port_listeners(
        self, translated: list[Translated], http_ports: Iterable[int]
    ) -> list[Resource]:
        """The listeners of every address and port: HTTP for all services of a port, TCP and TLS by
        their addresses.
        """
        parts: dict[tuple[str, int], list[Contribution]] = {}
        judged = set(chain.from_iterable(entry.judged for entry in translated))
        # New each time, as the others here: ports that nobody has any more are forgotten.
        self._http_parts = {
            (port, port in judged): self._http_part(port, is_judged=port in judged)
            for port in http_ports
        }
        for (port, _), part in self._http_parts.items():
            parts[ANY_ADDRESS, port] = [part]
        for part in chain.from_iterable(entry.tcp for entry in translated):
            parts.setdefault((part.address, part.port), []).append(part)

        rest = serialised(outbound_listeners.unknown_chain(allow_any=self.allow_any))
        made: dict[tuple[str, int], tuple[tuple[Contribution, ...], Resource]] = {}

        for (address, port), listed in parts.items():
            key = tuple(listed)
            known = self._listeners.get((address, port))

            if known is None or known[0] != key:
                known = (key, self._port_listener(address, port, key, rest))

            made[address, port] = known

        self._listeners = made
        return [resource for _, resource in made.values()]

    def _port_listener(
        self, address: str, port: int, parts: tuple[Contribution, ...], rest: bytes
    ) -> Resource:
        head = outbound_listeners.port_listener(
            address,
            port,
            needs_sni=any(p.needs_sni for p in parts),
            needs_sniffing=any(p.needs_sniffing for p in parts),
            timeout=_patience(parts, self._mesh.settings.detection_timeout),
        )
        return make_resource(
            LISTENER, head.name, listener_body(serialised(head), parts, rest)
        )

    def _dns_listener(self, translated: Iterable[Translated]) -> Resource:
        # A service of UDP alone is not carried by the mesh: Docker's resolver answers with its
        # containers.
        hosts = [
            (t.inputs.domains, t.inputs.vip)
            for t in translated
            if t.inputs.vip and t.clusters
        ]
        self._dns = self._dns.of(hosts, dns.domains)
        return self._dns.listener(dns.dns_listener)

    def _endpoints_listener(self, translated: Iterable[Translated]) -> list[Resource]:
        if not self.allow_undeclared:
            return []
        hosts = [
            (t.inputs.vip, t.clusters[0].name)
            for t in translated
            if t.inputs.vip and t.clusters
        ]
        self._endpoints = self._endpoints.of(hosts, undeclared.endpoints_of)
        return [self._endpoints.listener(undeclared.endpoints_listener)]


def _patience(parts: Iterable[Contribution], detection_timeout: float) -> float:
    """How long a client's first bytes are waited for; 0 is without limit."""
    # Where nobody but clients of HTTP is known to call, one that says nothing yet is not of another
    # kind, and is not taken for one of a server-first protocol.
    if not any(p.rest or not p.needs_sniffing for p in parts):
        return 0
    if all(p.may_be_bytes for p in parts):
        return min(SILENCE_S, detection_timeout)
    return detection_timeout


def _covered(mesh: MeshState, project: str) -> set[str]:
    """The shared services that a Compose project does not call, as it has its own of that name."""
    if not project:
        return set()
    return {s.shared for s in mesh.services.values() if s.project == project}


def _is_all_exported(mesh: MeshState) -> bool:
    # Only ServiceEntries can say to whom they are exported.
    return not mesh.settings.service_export_to and not any(
        s.export_to for s in mesh.declared.values()
    )


def _with_endpoints_of(
    old: Translated, item: Service, where: Destinations
) -> Translated:
    """The translation with the endpoints of the service's new state, and all else as it was."""
    known = {a.name: a for a in old.assignments}
    kept = tuple(
        same
        if (same := known.get(made.name)) is not None and same.version == made.version
        else made
        for made in outbound_service.assignments(item, old.inputs, where)
    )
    return replace(old, service=item, assignments=kept)


def _attempts(inputs: Inputs) -> Iterator[tuple[Inputs, tuple[str, ...]]]:
    """The inputs with ever fewer of the users' rules, and which of these are left out."""
    # One of the two kinds is to blame as a rule: each is left out alone before both are.
    yield inputs, ()
    route = (str(inputs.rule),) if inputs.rule is not None else ()
    rules = tuple(map(str, inputs.policies))
    without_route = replace(inputs, rule=None, dependencies=(), caller=None)
    if route:
        yield without_route, route
    if rules:
        yield replace(inputs, policies=()), rules
        yield replace(without_route, policies=()), (*route, *rules)


def named(type_url: str, message: Any) -> Resource:
    """The message as a resource of its own name."""
    return make_resource(type_url, message.name, serialised(message))


def _keep(old: ResourceSet, resources: list[Resource]) -> ResourceSet:
    """The set of these resources: the old object if nothing differs, so that comparing it costs
    nothing.
    """
    new = ResourceSet(resources)
    return old if new.version == old.version else new
