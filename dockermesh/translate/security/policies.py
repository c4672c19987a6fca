"""The security policies that select one workload, and the filters that follow from them.

Invariant: `Policies` is a value that can be a key, so that proxies with the same policies share
their resources; those that no policy selects have `NO_POLICIES` and get the same bytes as if there
were none in the mesh.

Order of the filters, as Istio's: external authorizers, tokens, AUDIT, DENY, ALLOW. Source of the
selection: Istio's *Authorization Policy* reference and `pilot/pkg/model/policyattachment.go`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as tcp_rbac_pb2

from dockermesh.config.api.authorization_policy import Action, AuthorizationPolicy
from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.api.request_authentication import RequestAuthentication
from dockermesh.config.resource import Resource
from dockermesh.translate.envoy.claims import JWT_FILTER
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.mesh.index import resolve_provider
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.mesh.state import MeshState, Proxy
from dockermesh.translate.mesh.visibility import Labels, as_labels
from dockermesh.translate.security.ext_authz import (
    SHADOW_PREFIX,
    Authorizer,
    is_usable,
    rule_prefix,
)
from dockermesh.translate.security.jwt import jwt_authentication, key_source
from dockermesh.translate.security.rbac import is_dry_run, rules
from dockermesh.translate.security.scripts import (
    HOST_AS_GIVEN,
    NOTHING_IGNORED,
    PORTLESS_HOST,
    one_token,
)

HTTP_RBAC = "envoy.filters.http.rbac"
HTTP_EXT_AUTHZ = "envoy.filters.http.ext_authz"
TCP_RBAC = "envoy.filters.network.rbac"
TCP_EXT_AUTHZ = "envoy.filters.network.ext_authz"
_TCP_STATS = "tcp."
_DRY_RUN_STATS = {
    Action.ALLOW: "istio_dry_run_allow_",
    Action.DENY: "istio_dry_run_deny_",
}
_BAD_CUSTOM = "-deny-due-to-bad-CUSTOM-action"
_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"

_Step = tuple[str, Any]
"""A filter's name and settings."""
_Policy = Resource[AuthorizationPolicy] | Resource[RequestAuthentication]


@dataclass(frozen=True, slots=True)
class Policies:
    """What selects one workload, oldest first, with all that its translation depends on.

    `keys` are the fetched key sets by URL, `authorizers` those that CUSTOM policies name and that
    are known.
    """

    names: tuple[str, ...] = ()
    authorizations: tuple[Resource[AuthorizationPolicy], ...] = field(
        default=(), hash=False
    )
    authentications: tuple[Resource[RequestAuthentication], ...] = field(
        default=(), hash=False
    )
    keys: tuple[tuple[str, str], ...] = ()
    authorizers: tuple[Authorizer, ...] = ()


NO_POLICIES = Policies()


@dataclass(frozen=True, slots=True)
class SecurityFilters:
    """The filters before the router of HTTP, and before the proxy of TCP; `connections` come before
    both, `replies` are texts of what the filters refuse.
    """

    http: Sequence[hcm_pb2.HttpFilter] = ()
    network: Sequence[listener_components_pb2.Filter] = ()
    connections: Sequence[listener_components_pb2.Filter] = ()
    replies: Sequence[hcm_pb2.ResponseMapper] = ()


class PolicyIndex:
    """The policies of one generation of the config, by namespace and by one of the labels that they
    ask for.

    A proxy is compared only with policies that share a label with it, or that ask for none.
    """

    def __init__(self, mesh: MeshState) -> None:
        self._mesh = mesh
        self._policies: list[_Policy] = [
            *mesh.config.authorization_policies,
            *mesh.config.request_authentications,
        ]
        self._by_label: dict[tuple[str, tuple[str, str] | None], list[int]] = (
            defaultdict(list)
        )

        for number, policy in enumerate(self._policies):
            # One label is enough to pass over nearly all policies; `applies` compares the others.
            selector: LabelSelector | None = policy.spec.selector
            label = (
                next(iter(selector.match_labels.items()), None)
                if selector is not None
                else None
            )
            self._by_label[policy.namespace, label].append(number)

        # Replicas get the very same object, so that keys with it are compared by identity.
        self._found: dict[tuple[str, Labels], Policies] = {}

    def of(self, proxy: Proxy) -> Policies:
        """The policies that select a proxy."""
        if not self._policies:
            return NO_POLICIES
        key = (proxy.namespace, as_labels(proxy.labels))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._select(proxy)
        return found

    def _select(self, proxy: Proxy) -> Policies:
        chosen = [policy for policy in self._near(proxy) if applies(policy, proxy)]
        if not chosen:
            return NO_POLICIES

        authorizations = tuple(
            p for p in chosen if isinstance(p.spec, AuthorizationPolicy)
        )
        authentications = tuple(
            p for p in chosen if isinstance(p.spec, RequestAuthentication)
        )
        return Policies(
            names=tuple(str(p) for p in chosen),
            authorizations=authorizations,
            authentications=authentications,
            keys=self._keys(authentications),
            authorizers=tuple(self._authorizers(authorizations)),
        )

    def _keys(
        self, authentications: Iterable[Resource[RequestAuthentication]]
    ) -> tuple[tuple[str, str], ...]:
        # Part of the key, so that a rotated key set makes the listeners anew that check by it.
        sources = {
            key_source(rule) for p in authentications for rule in p.spec.jwt_rules
        }
        known = self._mesh.jwks
        return tuple((url, known[url]) for url in sorted(sources) if url in known)

    def _near(self, proxy: Proxy) -> Iterator[_Policy]:
        """Policies of the proxy's namespaces with one of its labels, or none; in their order."""
        labels = (None, *proxy.labels.items())
        namespaces = (self._mesh.settings.root_namespace, proxy.namespace)
        keys = ((namespace, label) for namespace in namespaces for label in labels)
        numbers = {number for key in keys for number in self._by_label.get(key, ())}
        # By number: oldest first, as the config is.
        return (self._policies[number] for number in sorted(numbers))

    def _authorizers(
        self, policies: Iterable[Resource[AuthorizationPolicy]]
    ) -> Iterable[Authorizer]:
        wanted = {p.spec.provider.name for p in policies if p.spec.provider is not None}
        names, root = self._mesh.names, self._mesh.settings.root_namespace

        for provider in self._mesh.settings.extension_providers:
            settings = provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http
            if (
                provider.name not in wanted
                or settings is None
                or not is_usable(settings)
            ):
                continue
            # As Istio: `failOpen` is about authorizers that do not answer, and not about such that
            # nobody knows.
            host = resolve_provider(names, settings.service, root)
            if host.lower() in names:
                yield Authorizer(provider.name, host, provider)


def applies(policy: Resource[Any], proxy: Proxy) -> bool:
    """Whether a resource with references or a selector, in the proxy's or the root namespace, is
    for the proxy.
    """
    spec = policy.spec
    targets = spec.target_refs or (
        (spec.target_ref,) if spec.target_ref is not None else ()
    )
    if targets:
        return policy.namespace == proxy.namespace and any(
            _is_target(target, policy.namespace, proxy) for target in targets
        )
    selector: LabelSelector | None = spec.selector
    return selector is None or proxy.labels.items() >= selector.match_labels.items()


def _is_target(target: PolicyTargetReference, namespace: str, proxy: Proxy) -> bool:
    """Whether a reference in a resource of this namespace is to the proxy."""
    is_gateway = (
        target.group == "gateway.networking.k8s.io" and target.kind == "Gateway"
    )
    named = proxy.labels.get(_GATEWAY_NAME)
    return (
        is_gateway
        and target.name == named
        and target.namespace in {None, "", namespace}
    )


# the filters
# --------------------------------------------------------------------------------------------------


def security_filters(
    policies: Policies, settings: MeshSettings, *, is_gateway: bool = False
) -> SecurityFilters:
    """The filters that enforce the policies."""
    if policies is NO_POLICIES:
        return SecurityFilters()
    domains = (settings.trust_domain, *settings.trust_domain_aliases)
    custom = [p for p in policies.authorizations if _asks_an_authorizer(p)]
    deciding = [
        p for p in policies.authorizations if p.spec.action is not Action.CUSTOM
    ]

    # Tokens come before the policies that look at their claims. An authorizer is asked before them,
    # also about requests whose tokens are no good.
    http = [
        *_asking(custom, policies, domains),
        *_checking_tokens(policies, is_gateway=is_gateway),
        *_seeing_hosts(
            [_http(*f) for f in _enforced(deciding, domains, is_tcp=False)], deciding
        ),
    ]
    network = [
        *chain.from_iterable(
            (_network(*finding), *(_network(*step) for step in asking))
            for finding, asking in _custom(custom, policies, domains, is_tcp=True)
        ),
        *(_network(*step) for step in _enforced(deciding, domains, is_tcp=True)),
    ]

    return SecurityFilters(http, network)


def _asks_an_authorizer(policy: Resource[AuthorizationPolicy]) -> bool:
    return policy.spec.action is Action.CUSTOM and not is_dry_run(policy)


def _asking(
    custom: list[Resource[AuthorizationPolicy]],
    policies: Policies,
    domains: tuple[str, ...],
) -> Iterator[hcm_pb2.HttpFilter]:
    for finding, asking in _custom(custom, policies, domains, is_tcp=False):
        # Only for the comparison: the authorizer is told the host that the client sent.
        yield from _seeing_hosts([_http(*finding)], custom)
        yield from (_http(*step) for step in asking)


def _checking_tokens(
    policies: Policies, *, is_gateway: bool
) -> Iterator[hcm_pb2.HttpFilter]:
    jwt_rules = [rule for p in policies.authentications for rule in p.spec.jwt_rules]
    if jwt_rules:
        yield one_token(jwt_rules)
        yield _http(
            JWT_FILTER,
            jwt_authentication(jwt_rules, dict(policies.keys), is_gateway=is_gateway),
        )
        yield NOTHING_IGNORED


def _seeing_hosts(
    filters: list[hcm_pb2.HttpFilter], policies: Iterable[Resource[AuthorizationPolicy]]
) -> list[hcm_pb2.HttpFilter]:
    """The filters, which see hosts without port if that is how the policies write them.

    Else a rule for `admin.example` would not hold for `admin.example:80`. Where any host has a
    port, all are compared as they are.
    """
    if filters and _name_bare_hosts(policies):
        return [PORTLESS_HOST, *filters, HOST_AS_GIVEN]
    return filters


def _name_bare_hosts(policies: Iterable[Resource[AuthorizationPolicy]]) -> bool:
    operations = [
        to.operation for p in policies for rule in p.spec.rules for to in rule.to
    ]
    hosts = [
        host for o in operations if o is not None for host in (*o.hosts, *o.not_hosts)
    ]
    # `*` holds for any host, with and without port.
    return any(host != "*" for host in hosts) and not any(":" in host for host in hosts)


def _http(name: str, message: Any) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=pack(message))


def _network(name: str, message: Any) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(message))


def _enforced(
    policies: list[Resource[AuthorizationPolicy]],
    domains: tuple[str, ...],
    *,
    is_tcp: bool,
) -> Iterable[_Step]:
    """An RBAC filter for each action: policies in dry run are its shadow rules."""
    for action in (Action.AUDIT, Action.DENY, Action.ALLOW):
        # What no policy asks for is not in the path of requests.
        chosen = [p for p in policies if p.spec.action is action]
        if chosen:
            made = _enforcing(chosen, action, domains, is_tcp=is_tcp)
            yield TCP_RBAC if is_tcp else HTTP_RBAC, made


def _enforcing(
    chosen: list[Resource[AuthorizationPolicy]],
    action: Action,
    domains: tuple[str, ...],
    *,
    is_tcp: bool,
) -> Any:
    enforced = [p for p in chosen if not is_dry_run(p)]
    reported = [p for p in chosen if is_dry_run(p)]
    made = _rbac(is_tcp=is_tcp)

    # Without rules a filter enforces nothing: policies in dry run alone must not deny all others.
    if enforced:
        made.rules.CopyFrom(rules(enforced, action, domains, is_tcp=is_tcp))
    if reported:
        made.shadow_rules.CopyFrom(rules(reported, action, domains, is_tcp=is_tcp))
        made.shadow_rules_stat_prefix = _DRY_RUN_STATS.get(action, "")

    return made


def _rbac(*, is_tcp: bool) -> Any:
    return tcp_rbac_pb2.RBAC(stat_prefix=_TCP_STATS) if is_tcp else http_rbac_pb2.RBAC()


def _custom(
    custom: list[Resource[AuthorizationPolicy]],
    policies: Policies,
    domains: tuple[str, ...],
    *,
    is_tcp: bool,
) -> Iterable[tuple[_Step, list[_Step]]]:
    """For each authorizer, what finds the requests that it has to judge, and what asks it.

    A policy whose authorizer is not known denies what its rules match; so do all where they name
    several, of which one could let through what another refuses.
    """
    rbac_filter = TCP_RBAC if is_tcp else HTTP_RBAC
    known = {authorizer.name: authorizer for authorizer in policies.authorizers}
    by_authorizer: dict[str, list[Resource[AuthorizationPolicy]]] = defaultdict(list)
    for policy in custom:
        if policy.spec.provider is not None:
            by_authorizer[policy.spec.provider.name].append(policy)

    for name, chosen in sorted(by_authorizer.items()):
        found = rules(
            chosen, Action.CUSTOM, domains, is_tcp=is_tcp, prefix=rule_prefix(name)
        )
        authorizer = known.get(name) if len(by_authorizer) == 1 else None
        made = _rbac(is_tcp=is_tcp)

        if authorizer is None:
            _deny(made, found)
            yield (rbac_filter, made), []
            continue

        # HTTP cannot be asked about connections: without requests such a policy has no effect.
        asking = authorizer.tcp(rbac_filter) if is_tcp else authorizer.http(rbac_filter)
        if asking is not None:
            made.shadow_rules.CopyFrom(found)
            made.shadow_rules_stat_prefix = SHADOW_PREFIX
            yield (
                (rbac_filter, made),
                [(TCP_EXT_AUTHZ if is_tcp else HTTP_EXT_AUTHZ, asking)],
            )


def _deny(made: Any, found: rbac_pb2.RBAC) -> None:
    """Refuse what the rules match. Their names say why, in access logs, as Istio's do."""
    made.rules.action = rbac_pb2.RBAC.DENY
    for rule, policy in found.policies.items():
        made.rules.policies[rule + _BAD_CUSTOM].CopyFrom(policy)
