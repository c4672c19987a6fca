"""The Istio resources, indexed so that a service finds what applies to it without looking at all of
them.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.virtual_service import Destination, VirtualService
from dockermesh.config.hosts import is_short, most_specific
from dockermesh.config.resource import Resource
from dockermesh.model import ProxyMode, Service
from dockermesh.model.contract import CLUSTER_DOMAIN
from dockermesh.model.workload import compose_names
from dockermesh.translate.mesh.delegates import Delegation
from dockermesh.translate.mesh.host_rules import HostRules, resolve_host
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import MeshState, Proxy, host_names
from dockermesh.translate.mesh.visibility import Labels, Scope, as_labels, is_exported

MESH_GATEWAY = "mesh"
_Spec = TypeVar("_Spec")


def resolve_provider(names: Mapping[str, str], service: str, root: str) -> str:
    """The hostname of the service `[namespace/]host` of a provider; without a namespace it is in
    that of the mesh's settings.
    """
    namespace, _, host = service.rpartition("/")
    return resolve_host(names, host, namespace or root)


def destinations_of(spec: VirtualService) -> Iterator[Destination]:
    """Everything that the rules lead to, mirrors included."""
    routes = [
        target
        for rules in (spec.http, spec.tls, spec.tcp)
        for rule in rules
        for target in rule.route
    ]
    mirrors = [
        mirror
        for rule in spec.http
        for mirror in (rule.mirror, *(m.destination for m in rule.mirrors))
    ]
    for destination in (*(t.destination for t in routes), *mirrors):
        if destination is not None:
            yield destination


class ConfigIndex:
    """One generation of the config, together with the names of the services then known."""

    def __init__(
        self,
        mesh: MeshState,
        delegation: Delegation,
        before: ConfigIndex | None = None,
    ) -> None:
        self.config: IstioConfig = mesh.config
        self.names = mesh.names
        self._own_names = mesh.own_names
        self.settings = mesh.settings
        self.virtual_services = delegation.resolve(mesh.config.virtual_services)
        given = (mesh.config.destination_rules, mesh.names, mesh.settings)
        self.rules: HostRules = (
            before.rules
            if before is not None and before.rules.are_of(*given)
            else HostRules(*given)
        )
        self.peer_policies = mesh.attestation.policies
        self._with_policies = frozenset(
            r.namespace
            for r in (
                *mesh.config.authorization_policies,
                *mesh.config.request_authentications,
                *(r for r in mesh.config.rate_limits if r.spec.limits),
            )
        )
        self._selectors = _selectors(mesh.config)
        self._namespaces = _namespaces(mesh)
        locality = mesh.settings.locality
        self._uses_labels = self.rules.uses_labels or bool(
            locality and locality.failover_priority
        )

    def rules_changed_since(self, before: ConfigIndex) -> frozenset[str] | None:
        """The hosts whose names, VirtualServices or DestinationRules are others than in the index
        before; None if anything else differs, or a rule of many hosts: then it may be any of them.
        """
        if self is before:
            return frozenset()
        if self.settings is not before.settings:
            return None
        if _without_rules(self.config) != _without_rules(before.config):
            return None
        is_renamed = self.names is not before.names
        if is_renamed and (self._own_names or before._own_names):
            return None

        moved = _moved(before.names, self.names) if is_renamed else {}
        routes = _others(self.virtual_services, before.virtual_services)
        rules = _others(self.rules.listed, before.rules.listed)
        if moved:
            routes += [r for r in self.virtual_services if _names_any(r, moved)]
            rules += [
                r for r in self.rules.listed if _is_any(r.spec.host, r.namespace, moved)
            ]

        named = [(host, r.namespace) for r in routes for host in r.spec.hosts]
        named += [(r.spec.host, r.namespace) for r in rules]
        if any("*" in host for host, _ in named):
            return None
        ruled = (
            resolve_host(names, *pair)
            for pair in named
            for names in (before.names, self.names)
        )
        return frozenset(ruled).union(*moved.values())

    def scope_of(self, proxy: Proxy) -> Scope:
        """What of the proxy decides what it is told."""
        # What nothing depends on is left empty: each difference here is another set of resources.
        sidecar = self._sidecar_of(proxy)
        carried = proxy.labels.items()
        return Scope(
            namespace=proxy.namespace if proxy.namespace in self._namespaces else "",
            sidecar=sidecar,
            selectors=frozenset(
                s for s in self._selectors if carried >= dict(s).items()
            ),
            locality=proxy.locality,
            labels=as_labels(proxy.labels) if self._uses_labels else (),
            has_certificate=proxy.has_certificate,
            project=self._project_of(proxy),
            at_node=proxy.workload is not None
            and proxy.workload.mode is ProxyMode.NODE,
        )

    def _project_of(self, proxy: Proxy) -> str:
        """The Compose project of the proxy, if that has services of its own."""
        project = (
            compose_names(proxy.workload.name)[0] if proxy.workload is not None else ""
        )
        return project if project in self._own_names else ""

    def _sidecar_of(self, proxy: Proxy) -> Resource[Sidecar] | None:
        """The Sidecar that selects the proxy, else that of its namespace, else that of the root
        namespace.
        """
        default = root = None
        for resource in self.config.sidecars:
            selector = resource.spec.workload_selector
            if resource.namespace == proxy.namespace:
                if selector is None:
                    default = default or resource
                elif proxy.labels.items() >= selector.labels.items():
                    return resource
            elif (
                resource.namespace == self.settings.root_namespace and selector is None
            ):
                root = root or resource

        return default or root

    def has_policies(self, service: Service) -> bool:
        """Whether policies may look at requests to the service: some are in its namespace, or in
        the root's.
        """
        return not self._with_policies.isdisjoint(
            (service.namespace, self.settings.root_namespace)
        )

    def mesh_rules(self, scope: Scope) -> MeshRules:
        """The VirtualServices that sidecars in this scope follow."""
        seen = []
        for resource in self.virtual_services:
            spec = resource.spec
            if spec.gateways and MESH_GATEWAY not in spec.gateways:
                continue
            export = spec.export_to or self.settings.virtual_service_export_to
            if not is_exported(export, resource.namespace, scope.namespace):
                continue
            # A Sidecar may list a host in full or as the rule writes it.
            names = [
                (resolve_host(self.names, host, resource.namespace), host)
                for host in spec.hosts
            ]
            if any(scope.imports(resource.namespace, pair) for pair in names):
                kept = [
                    pair
                    for pair in names
                    if not scope.excludes(resource.namespace, pair)
                ]
                seen.append((resource, kept))

        return MeshRules(seen)


@dataclass(frozen=True, slots=True)
class UnknownHost:
    """A host that a VirtualService routes although no service has it."""

    host: str
    domains: tuple[str, ...]
    rule: Resource[VirtualService]


class MeshRules:
    """VirtualServices by the hosts they route; the oldest has a host, the most specific host has a
    service.

    Each comes with its hosts, in full and as it writes them.
    """

    def __init__(
        self, rules: Iterable[tuple[Resource[VirtualService], list[tuple[str, str]]]]
    ) -> None:
        self._by_host: dict[str, Resource[VirtualService]] = {}
        self._written: dict[str, str] = {}
        for resource, hosts in rules:
            for host, written in hosts:
                self._by_host.setdefault(host, resource)
                self._written.setdefault(host, written)
        self._patterns = [host for host in self._by_host if host.startswith("*")]

    def targets(self, names: Mapping[str, str]) -> set[str]:
        """The hosts that the rules lead to."""
        return {
            resolve_host(names, destination.host, resource.namespace)
            for resource in self._by_host.values()
            for destination in destinations_of(resource.spec)
        }

    def of(self, service: Service) -> Resource[VirtualService] | None:
        """The VirtualService of a service."""
        found = self._by_host.get(service.hostname) or self._by_host.get(service.shared)
        if found is not None or not self._patterns:
            return found
        host = self._pattern_of(service)
        return self._by_host[host] if host is not None else None

    def _pattern_of(self, service: Service) -> str | None:
        covering = (most_specific(name, self._patterns) for name in host_names(service))
        return max((p for p in covering if p is not None), key=len, default=None)

    def unknown_hosts(
        self, mesh: MeshState, services: Mapping[str, Service]
    ) -> list[UnknownHost]:
        """What is routed without being a service: served on port 80 alone.

        A domain is given once, for Envoy refuses a whole table in which one is there twice.
        """
        used = (
            {self._pattern_of(service) for service in services.values()}
            if self._patterns
            else set()
        )
        found, taken = [], set(mesh.owners)

        for host, rule in self._by_host.items():
            if host in services or host in used:
                continue
            listed = _domains(host, self._written[host])
            free = tuple(
                d
                for d in listed
                if d not in taken and mesh.names.get(d) not in services
            )
            taken.update(free)
            if free:
                found.append(UnknownHost(host, free, rule))

        return found


def _moved(
    before: Mapping[str, str], after: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The names that are not of the same host in both, with the hosts that they are of."""
    different = {name for name, _ in before.items() ^ after.items()}
    hosts = ((name, (before.get(name), after.get(name))) for name in different)
    return {name: tuple(h for h in pair if h is not None) for name, pair in hosts}


def _names_any(resource: Resource[VirtualService], names: Container[str]) -> bool:
    """Whether a VirtualService is for a host of these names, or leads to one."""
    spec = resource.spec
    led_to = (destination.host for destination in destinations_of(spec))
    return any(
        _is_any(host, resource.namespace, names) for host in (*spec.hosts, *led_to)
    )


def _is_any(host: str, namespace: str, names: Container[str]) -> bool:
    """Whether a host may mean one of these names (see `resolve_host`)."""
    host = host.lower()
    return host in names or f"{host}.{namespace}" in names


def _without_rules(config: IstioConfig) -> IstioConfig:
    return replace(config, virtual_services=(), destination_rules=())


def _others(
    ones: Iterable[Resource[_Spec]], others: Iterable[Resource[_Spec]]
) -> list[Resource[_Spec]]:
    """What is in one of the two alone: what did not change is the same object."""
    first, second = ({id(r): r for r in group} for group in (ones, others))
    return [(first.get(i) or second[i]) for i in first.keys() ^ second.keys()]


def _domains(host: str, written: str) -> tuple[str, ...]:
    written = written.lower()
    if not is_short(written):
        return (host,)
    return (written, host, f"{host}.svc", f"{host}.{CLUSTER_DOMAIN}")


def _selectors(config: IstioConfig) -> list[Labels]:
    """Every label selector on which routing or policy depends."""
    found: dict[Labels, None] = {}
    for resource in config.virtual_services:
        spec = resource.spec
        matches = [
            m
            for rules in (spec.http, spec.tls, spec.tcp)
            for rule in rules
            for m in rule.match
        ]
        found.update(
            (as_labels(m.source_labels), None) for m in matches if m.source_labels
        )

    for rule in config.destination_rules:
        if rule.spec.workload_selector is not None:
            found[as_labels(rule.spec.workload_selector.match_labels)] = None

    return list(found)


def _namespaces(mesh: MeshState) -> frozenset[str]:
    """The namespaces whose proxies may be told something of their own; all others are one."""
    config = mesh.config
    listed = (
        config.virtual_services,
        config.destination_rules,
        config.service_entries,
        config.sidecars,
    )
    found = {resource.namespace for group in listed for resource in group}
    for group in listed[:3]:
        for resource in group:
            found.update(resource.spec.export_to)

    for resource in config.virtual_services:
        spec = resource.spec
        for rules in (spec.http, spec.tls, spec.tcp):
            found.update(m.source_namespace for rule in rules for m in rule.match)

    for setting in (
        mesh.settings.service_export_to,
        mesh.settings.destination_rule_export_to,
    ):
        found.update(setting)
    return frozenset(found)
