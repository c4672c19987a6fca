"""Which DestinationRule settings apply to a service, a port of it, or a subset.

Invariant: a more specific level replaces a less specific one block by block; the settings of a port
replace all of it, so that what they leave out is the default again. Source: Istio's DestinationRule
reference and `MergeTrafficPolicy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from dockermesh.config.api.destination_rule import (
    DestinationRule,
    Subset,
    TrafficPolicy,
)
from dockermesh.config.api.health_check import HealthCheck
from dockermesh.config.health_check import health_check
from dockermesh.config.resource import Resource

NO_POLICY = TrafficPolicy()
_BLOCKS = (
    "connection_pool",
    "outlier_detection",
    "load_balancer",
    "tls",
    "tunnel",
    "proxy_protocol",
    "retry_budget",
)


@dataclass(frozen=True, slots=True)
class HostRule:
    """Everything that the DestinationRules of one host say together."""

    policy: TrafficPolicy = NO_POLICY
    subsets: tuple[Subset, ...] = ()
    health_check: HealthCheck | None = None

    def subset(self, name: str) -> Subset | None:
        """The subset of this name."""
        return next((s for s in self.subsets if s.name == name), None)


NO_RULE = HostRule()


def merge_rules(rules: Iterable[Resource[DestinationRule]]) -> HostRule:
    """Several rules of one host, oldest first: the first policy counts, subsets add up, the first
    of a name counts.
    """
    policy: TrafficPolicy | None = None
    check: HealthCheck | None = None
    subsets: dict[str, Subset] = {}

    for rule in rules:
        policy = policy if policy is not None else rule.spec.traffic_policy
        check = check if check is not None else health_check(rule.annotations)
        for subset in rule.spec.subsets:
            subsets.setdefault(subset.name, subset)

    return HostRule(policy or NO_POLICY, tuple(subsets.values()), check)


def limits_servers(rule: Resource[DestinationRule]) -> bool:
    """Whether a rule limits connections and requests at the server as it does at the client."""
    policy = rule.spec.traffic_policy
    return policy is not None and (
        policy.connection_pool is not None
        or policy.retry_budget is not None
        or any(own.connection_pool is not None for own in policy.port_level_settings)
    )


def effective_policy(
    rule: HostRule, port: int, subset: Subset | None = None
) -> TrafficPolicy:
    """What applies to connections to this port of the service, or of the subset."""
    policy = _for_port(NO_POLICY, rule.policy, port)
    if subset is not None and subset.traffic_policy is not None:
        policy = _for_port(policy, subset.traffic_policy, port)
    return policy


def _for_port(outer: TrafficPolicy, inner: TrafficPolicy, port: int) -> TrafficPolicy:
    given = {
        name: value for name in _BLOCKS if (value := getattr(inner, name)) is not None
    }
    policy = replace(outer, **given, port_level_settings=())

    for own in inner.port_level_settings:
        if own.port is not None and own.port.number == port:
            return replace(
                policy,
                connection_pool=own.connection_pool,
                outlier_detection=own.outlier_detection,
                load_balancer=own.load_balancer,
                tls=own.tls,
            )

    return policy
