"""The Istio resources, indexed so that a service finds what applies to it without looking at all of
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from dockermesh.config.api.destination_rule import DestinationRule, LoadBalancerSettings
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.api.virtual_service import Destination, VirtualService
from dockermesh.config.hosts import is_short, most_specific
from dockermesh.config.resource import Resource
from dockermesh.model import Service
from dockermesh.model.contract import CLUSTER_DOMAIN
from dockermesh.model.workload import compose_names
from dockermesh.translate.mesh.delegates import Delegation
from dockermesh.translate.mesh.settings import IstioConfig
from dockermesh.translate.mesh.state import MeshState, Proxy, host_names
from dockermesh.translate.mesh.traffic_policy import NO_RULE, HostRule, merge_rules
from dockermesh.translate.mesh.visibility import Labels, Scope, as_labels, is_exported

MESH_GATEWAY = "mesh"
Rules = tuple[Resource[DestinationRule], ...]


def resolve_host(names: Mapping[str, str], host: str, namespace: str) -> str:
    """The hostname of the service that a resource in `namespace` calls `host`; if there is none, a
    full name.
    """
    host = host.lower()
    # `reviews` is the service of the resource's own namespace first, then whoever has the name.
    if is_short(host):
        return (
            names.get(f"{host}.{namespace}") or names.get(host) or f"{host}.{namespace}"
        )
    return names.get(host, host)


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

    def __init__(self, mesh: MeshState, delegation: Delegation) -> None:
        self.config: IstioConfig = mesh.config
        self.names = mesh.names
        self._projects = frozenset(mesh.own_names)
        self.settings = mesh.settings
        self.virtual_services = delegation.resolve(mesh.config.virtual_services)
        self._rules: dict[str, dict[str, list[Resource[DestinationRule]]]] = {}
        for rule in mesh.config.destination_rules:
            host = resolve_host(self.names, rule.spec.host, rule.namespace)
            self._rules.setdefault(rule.namespace, defaultdict(list))[host].append(rule)

        # Apart, so that a host without a rule of its own is compared with wildcards alone.
        self._patterns = {
            ns: [h for h in hosts if h.startswith("*")]
            for ns, hosts in self._rules.items()
        }
        self._merged: dict[tuple[int, ...], HostRule] = {}
        self.peer_policies = mesh.attestation.policies
        self._selectors = _selectors(mesh.config)
        self._namespaces = _namespaces(mesh)
        self._uses_labels = any(
            _uses_labels(r) for r in mesh.config.destination_rules
        ) or bool(mesh.settings.locality and mesh.settings.locality.failover_priority)

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
        )

    def _project_of(self, proxy: Proxy) -> str:
        """The Compose project of the proxy, if that has services of its own."""
        project = (
            compose_names(proxy.workload.name)[0] if proxy.workload is not None else ""
        )
        return project if project in self._projects else ""

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

    def rules_of(self, host: str, owner: str, scope: Scope, shared: str = "") -> Rules:
        """The DestinationRules for a service of namespace `owner`: the client's own, the service's,
        or the root's.

        Those for `shared` are for the service, too (see `Service`).
        """
        for namespace in dict.fromkeys(
            (scope.namespace, owner, self.settings.root_namespace)
        ):
            hosts = self._rules.get(namespace)
            if hosts is None:
                continue

            for candidate in self._candidates(namespace, host, shared):
                found = tuple(r for r in hosts[candidate] if self._applies(r, scope))
                if found:
                    return found

        return ()

    def _candidates(self, namespace: str, host: str, shared: str) -> list[str]:
        """The hosts of rules that cover `host`, the most specific first."""
        patterns = self._patterns[namespace]
        wild = [
            p for p in patterns if p != host and most_specific(host, [p]) is not None
        ]
        exact = [h for h in (host, shared) if h in self._rules[namespace]]
        return exact + sorted(wild, key=len, reverse=True)

    def _applies(self, rule: Resource[DestinationRule], scope: Scope) -> bool:
        export = rule.spec.export_to or self.settings.destination_rule_export_to
        if not is_exported(export, rule.namespace, scope.namespace):
            return False
        selector = rule.spec.workload_selector
        if selector is None:
            return True
        return rule.namespace == scope.namespace and scope.carries(
            selector.match_labels
        )

    def merged(self, rules: Rules) -> HostRule:
        """What the rules of one host say together."""
        if not rules:
            return NO_RULE
        # By identity: the index holds on to the rules, so no other one can have their ids.
        key = tuple(id(rule) for rule in rules)
        found = self._merged.get(key)
        if found is None:
            found = self._merged[key] = merge_rules(rules)
        return found

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
            hosts = [
                resolve_host(self.names, host, resource.namespace)
                for host in spec.hosts
            ]
            # A Sidecar may list a host in full or as the rule writes it.
            if scope.imports(resource.namespace, [*hosts, *spec.hosts]):
                seen.append((resource, hosts))

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
    """

    def __init__(
        self, rules: Iterable[tuple[Resource[VirtualService], list[str]]]
    ) -> None:
        self._by_host: dict[str, Resource[VirtualService]] = {}
        self._written: dict[str, str] = {}
        for resource, hosts in rules:
            for host, written in zip(hosts, resource.spec.hosts, strict=True):
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


def _uses_labels(rule: Resource[DestinationRule]) -> bool:
    settings = (b.locality_lb_setting for b in _balancers(rule) if b is not None)
    return any(s is not None and s.failover_priority for s in settings)


def _balancers(
    rule: Resource[DestinationRule],
) -> Iterator[LoadBalancerSettings | None]:
    """How each level of the rule balances: the host, its subsets, and their ports."""
    spec = rule.spec
    for policy in (spec.traffic_policy, *(s.traffic_policy for s in spec.subsets)):
        if policy is not None:
            yield policy.load_balancer
            yield from (own.load_balancer for own in policy.port_level_settings)
