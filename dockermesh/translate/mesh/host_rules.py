"""The DestinationRules of one generation of the config, by the hosts that they are for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from dockermesh.config.api.destination_rule import DestinationRule, LoadBalancerSettings
from dockermesh.config.hosts import is_short, most_specific
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.traffic_policy import (
    NO_RULE,
    HostRule,
    limits_servers,
    merge_rules,
)
from dockermesh.translate.mesh.visibility import Scope, is_exported

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


class HostRules:
    """Finds what applies to a host without looking at all rules."""

    def __init__(
        self, rules: Rules, names: Mapping[str, str], settings: MeshSettings
    ) -> None:
        self.listed = rules
        self._names = names
        self._settings = settings
        self._rules: dict[str, dict[str, list[Resource[DestinationRule]]]] = {}
        for rule in rules:
            host = resolve_host(names, rule.spec.host, rule.namespace)
            self._rules.setdefault(rule.namespace, defaultdict(list))[host].append(rule)

        # Apart, so that a host without a rule of its own is compared with wildcards alone.
        self._patterns = {
            ns: [h for h in hosts if h.startswith("*")]
            for ns, hosts in self._rules.items()
        }
        self._limiting = frozenset(
            host
            for hosts in self._rules.values()
            for host, rules in hosts.items()
            if any(limits_servers(rule) for rule in rules)
        )
        self._limits_by_pattern = any(host.startswith("*") for host in self._limiting)
        self.uses_labels = any(_uses_labels(rule) for rule in rules)
        self._merged: dict[tuple[int, ...], HostRule] = {}

    def are_of(
        self, rules: Rules, names: Mapping[str, str], settings: MeshSettings
    ) -> bool:
        """Whether they would be the same if they were made of these."""
        is_same = names is self._names and settings is self._settings
        return is_same and rules == self.listed

    def of(self, host: str, owner: str, scope: Scope, shared: str = "") -> Rules:
        """The DestinationRules for a service of namespace `owner`: the client's own, the service's,
        or the root's.

        Those for `shared` are for the service, too (see `Service`).
        """
        for namespace in dict.fromkeys(
            (scope.namespace, owner, self._settings.root_namespace)
        ):
            hosts = self._rules.get(namespace)
            if hosts is None:
                continue

            for candidate in self._candidates(namespace, host, shared):
                found = tuple(r for r in hosts[candidate] if self._applies(r, scope))
                if found:
                    return found

        return ()

    def limits_servers_of(self, host: str, shared: str) -> bool:
        """Whether rules may limit what the service's own proxies pass on; cheap, for it is asked
        for every proxy.
        """
        is_named = host in self._limiting or shared in self._limiting
        return is_named or self._limits_by_pattern

    def merged(self, rules: Rules) -> HostRule:
        """What the rules of one host say together."""
        if not rules:
            return NO_RULE
        # By identity: the rules are held on to, so no other one can have their ids.
        key = tuple(id(rule) for rule in rules)
        found = self._merged.get(key)
        if found is None:
            found = self._merged[key] = merge_rules(rules)
        return found

    def _candidates(self, namespace: str, host: str, shared: str) -> Sequence[str]:
        """The hosts of rules that cover `host`, the most specific first."""
        patterns = self._patterns[namespace]
        wild = [
            p for p in patterns if p != host and most_specific(host, [p]) is not None
        ]
        exact = [h for h in (host, shared) if h in self._rules[namespace]]
        return exact + sorted(wild, key=len, reverse=True)

    def _applies(self, rule: Resource[DestinationRule], scope: Scope) -> bool:
        export = rule.spec.export_to or self._settings.destination_rule_export_to
        if not is_exported(export, rule.namespace, scope.namespace):
            return False
        selector = rule.spec.workload_selector
        if selector is None:
            return True
        return rule.namespace == scope.namespace and scope.carries(
            selector.match_labels
        )


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
