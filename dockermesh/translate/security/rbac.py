"""AuthorizationPolicies as rules of Envoy's RBAC filters, for HTTP and for TCP.

Invariant: what a filter cannot see never lets more through. On TCP, an ALLOW rule that asks for
something of HTTP is left out, and of other rules only what asks for HTTP is.

Source: Istio's *Authorization Policy* reference; names of rules as Istio writes them, which access
logs show.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.rbac.v3 import rbac_pb2

from dockermesh.config.api.authorization_policy import (
    Action,
    AuthorizationPolicy,
    Operation,
    Rule,
    Source,
)
from dockermesh.config.resource import Resource
from dockermesh.model.contract import DEFAULT_TRUST_DOMAIN
from dockermesh.translate.security import rbac_matchers as attributes
from dockermesh.translate.security.rbac_matchers import (
    PERMISSIONS,
    PRINCIPALS,
    Attribute,
    Logic,
    Matcher,
)

Policy = Resource[AuthorizationPolicy]
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_DRY_RUN = "istio.io/dry-run"
_LOCAL_DOMAIN = DEFAULT_TRUST_DOMAIN
"""In a principal: the mesh's own trust domain, whatever its name."""
_ACTIONS = {
    Action.ALLOW: rbac_pb2.RBAC.ALLOW,
    Action.DENY: rbac_pb2.RBAC.DENY,
    Action.CUSTOM: rbac_pb2.RBAC.DENY,
    Action.AUDIT: rbac_pb2.RBAC.LOG,
}
_NEVER = rbac_pb2.Policy(
    permissions=[PERMISSIONS.none_of(PERMISSIONS.anything)],
    principals=[PRINCIPALS.none_of(PRINCIPALS.anything)],
)


@dataclass(frozen=True, slots=True)
class _Clause:
    """One attribute of a rule: one of the values must hold, and none of the others."""

    attribute: Attribute
    values: tuple[str, ...]
    not_values: tuple[str, ...]


class _Unsupported(Exception):
    """A rule asks for what this filter cannot see."""


def is_dry_run(policy: Policy) -> bool:
    """Whether the policy is only to be reported, not enforced."""
    return policy.annotations.get(_DRY_RUN) in _TRUE


def rules(
    policies: Iterable[Policy],
    action: Action,
    trust_domains: tuple[str, ...],
    *,
    is_tcp: bool,
    prefix: str = "",
) -> rbac_pb2.RBAC:
    """The rules of policies of one action; without any policy nothing matches.

    `trust_domains` are the mesh's own, the first by its name and the others as aliases. `prefix`
    goes before the names of the rules.
    """
    made = rbac_pb2.RBAC(action=_ACTIONS[action])
    for policy in policies:
        stem = f"{prefix}ns[{policy.namespace}]-policy[{policy.name}]-rule"
        for index, rule in enumerate(policy.spec.rules):
            translated = _policy(
                rule, policy.namespace, action, trust_domains, is_tcp=is_tcp
            )
            if translated is not None:
                made.policies[f"{stem}[{index}]"].CopyFrom(translated)

        if not policy.spec.rules:
            # Said explicitly: Envoy would take a filter without any policy for one that is switched
            # off.
            made.policies[f"{stem}[0]"].CopyFrom(_NEVER)

    return made


def _policy(
    rule: Rule,
    namespace: str,
    action: Action,
    trust_domains: tuple[str, ...],
    *,
    is_tcp: bool,
) -> rbac_pb2.Policy | None:
    try:
        # A DENY rule without a condition denies more, an ALLOW rule without it would allow more.
        drops = action is not Action.ALLOW
        conditions = _conditions(rule, namespace, trust_domains, drops=drops)
        sources = [
            _source(entry.source or Source(), namespace, trust_domains)
            for entry in rule.sources
        ] or [[]]
        operations = [
            _operation(entry.operation or Operation()) for entry in rule.to
        ] or [[]]
        return rbac_pb2.Policy(
            permissions=_halves(
                PERMISSIONS, operations, conditions, is_tcp=is_tcp, drops=drops
            ),
            principals=_halves(
                PRINCIPALS, sources, conditions, is_tcp=is_tcp, drops=drops
            ),
        )
    except _Unsupported:
        return None


def _halves(
    logic: Logic,
    alternatives: Iterable[list[_Clause]],
    conditions: list[_Clause],
    *,
    is_tcp: bool,
    drops: bool,
) -> list[Matcher]:
    """One matcher for each alternative; the conditions that belong to this half are part of all."""
    own = [clause for clause in conditions if clause.attribute.logic is logic]
    return [
        _half(logic, [*clauses, *own], is_tcp=is_tcp, drops=drops)
        for clauses in alternatives
    ]


def _half(
    logic: Logic, clauses: Iterable[_Clause], *, is_tcp: bool, drops: bool
) -> Matcher:
    """All clauses together. Raises _Unsupported where one cannot be seen and must not be
    dropped.
    """
    found = []
    for clause in clauses:
        if is_tcp and clause.attribute.is_http and (clause.values or clause.not_values):
            if drops:
                continue
            raise _Unsupported

        if clause.values:
            found.append(clause.attribute.matcher(clause.values))
        if clause.not_values:
            found.append(logic.none_of(clause.attribute.matcher(clause.not_values)))

    return logic.all_of(found or [logic.anything])


def _source(
    source: Source, namespace: str, trust_domains: tuple[str, ...]
) -> list[_Clause]:
    principals, not_principals = (
        _with_aliases(values, trust_domains)
        for values in (source.principals, source.not_principals)
    )
    domains, not_domains = (
        _all_of_the_mesh(values, trust_domains)
        for values in (source.trust_domains, source.not_trust_domains)
    )
    return [
        _Clause(attributes.SOURCE_PRINCIPALS, principals, not_principals),
        _Clause(
            attributes.REQUEST_PRINCIPALS,
            source.request_principals,
            source.not_request_principals,
        ),
        _Clause(
            attributes.service_account(namespace),
            source.service_accounts,
            source.not_service_accounts,
        ),
        _Clause(attributes.NAMESPACES, source.namespaces, source.not_namespaces),
        _Clause(attributes.TRUST_DOMAINS, domains, not_domains),
        _Clause(
            attributes.REMOTE_IP_BLOCKS,
            source.remote_ip_blocks,
            source.not_remote_ip_blocks,
        ),
        _Clause(attributes.IP_BLOCKS, source.ip_blocks, source.not_ip_blocks),
    ]


def _operation(operation: Operation) -> list[_Clause]:
    return [
        _Clause(attributes.HOSTS, operation.hosts, operation.not_hosts),
        _Clause(attributes.METHODS, operation.methods, operation.not_methods),
        _Clause(attributes.PATHS, operation.paths, operation.not_paths),
        _Clause(attributes.PORTS, operation.ports, operation.not_ports),
    ]


def _conditions(
    rule: Rule, namespace: str, trust_domains: tuple[str, ...], *, drops: bool
) -> list[_Clause]:
    found = []
    for when in rule.when:
        attribute = attributes.condition(when.key, namespace)
        if attribute is None:
            if drops:
                continue
            raise _Unsupported

        values, not_values = when.values, when.not_values
        # These alone name a trust domain.
        if attribute is attributes.SOURCE_PRINCIPALS:
            values, not_values = (
                _with_aliases(values, trust_domains),
                _with_aliases(not_values, trust_domains),
            )
        elif attribute is attributes.TRUST_DOMAINS:
            values, not_values = (
                _all_of_the_mesh(values, trust_domains),
                _all_of_the_mesh(not_values, trust_domains),
            )

        found.append(_Clause(attribute, values, not_values))

    return found


def _all_of_the_mesh(
    domains: Iterable[str], trust_domains: tuple[str, ...]
) -> tuple[str, ...]:
    """The trust domains; one of the mesh's own stands for all of them."""
    found = (
        d for v in domains for d in (trust_domains if v in trust_domains else (v,))
    )
    return tuple(dict.fromkeys(found))


def _with_aliases(
    principals: Iterable[str], trust_domains: tuple[str, ...]
) -> tuple[str, ...]:
    return tuple(
        alias
        for principal in principals
        for alias in _aliases(principal, trust_domains)
    )


def _aliases(principal: str, trust_domains: tuple[str, ...]) -> list[str]:
    """The principal in each of the mesh's trust domains, if it names one of them; else itself."""
    domain, _, rest = principal.partition("/")
    # What is not `<domain>/ns/<namespace>/sa/<account>` names no domain to put another in place of.
    if principal.count("/") != 4 or domain == "*":
        return [principal]

    if domain != _LOCAL_DOMAIN and not any(
        _covers(domain, d) or _covers(d, domain) for d in trust_domains
    ):
        return [principal]

    kept = (
        principal if domain.startswith("*") and _covers(domain, d) else f"{d}/{rest}"
        for d in trust_domains
    )
    return list(dict.fromkeys(kept))


def _covers(pattern: str, domain: str) -> bool:
    if pattern.startswith("*"):
        return domain.endswith(pattern[1:])
    return (
        domain.startswith(pattern[:-1]) if pattern.endswith("*") else domain == pattern
    )
