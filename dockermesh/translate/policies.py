"""The security policies that select one workload, and the filters that follow from them.

Invariant: `Policies` is a value that can be a key, so that proxies with the same policies share their resources; those
that no policy selects have `NO_POLICIES` and get the same bytes as if there were none in the mesh.

Order of the filters, as Istio's: external authorizers, tokens, AUDIT, DENY, ALLOW.
Source of the selection: Istio's *Authorization Policy* reference and `pilot/pkg/model/policyattachment.go`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as tcp_rbac_pb2

from dockermesh.config.api.authorization_policy import Action, AuthorizationPolicy
from dockermesh.config.api.common import LabelSelector, PolicyTargetReference
from dockermesh.config.api.request_authentication import RequestAuthentication
from dockermesh.config.resource import Resource
from dockermesh.translate.ext_authz import SHADOW_PREFIX, Authorizer
from dockermesh.translate.http import pack
from dockermesh.translate.index import resolve_host
from dockermesh.translate.jwt import jwt_authentication, key_source
from dockermesh.translate.jwt_names import JWT_FILTER
from dockermesh.translate.mesh import MeshState, Proxy
from dockermesh.translate.rbac import is_dry_run, rules
from dockermesh.translate.settings import MeshSettings
from dockermesh.translate.visibility import Labels, as_labels

HTTP_RBAC = "envoy.filters.http.rbac"
HTTP_EXT_AUTHZ = "envoy.filters.http.ext_authz"
TCP_RBAC = "envoy.filters.network.rbac"
TCP_EXT_AUTHZ = "envoy.filters.network.ext_authz"
_TCP_STATS = "tcp."
_DRY_RUN_STATS = {Action.ALLOW: "istio_dry_run_allow_", Action.DENY: "istio_dry_run_deny_"}
_BAD_CUSTOM = "-deny-due-to-bad-CUSTOM-action"
_GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"

_Policy = Resource[AuthorizationPolicy] | Resource[RequestAuthentication]


@dataclass(frozen=True, slots=True)
class Policies:
    """What selects one workload, oldest first, with all that its translation depends on.

    `keys` are the fetched key sets by URL, `authorizers` those that CUSTOM policies name and that are known.
    """

    names: tuple[str, ...] = ()
    authorizations: tuple[Resource[AuthorizationPolicy], ...] = field(default=(), hash=False)
    authentications: tuple[Resource[RequestAuthentication], ...] = field(default=(), hash=False)
    keys: tuple[tuple[str, str], ...] = ()
    authorizers: tuple[Authorizer, ...] = ()


NO_POLICIES = Policies()


@dataclass(frozen=True, slots=True)
class SecurityFilters:
    """The filters before the router of HTTP, and before the proxy of TCP."""

    http: Sequence[hcm_pb2.HttpFilter] = ()
    network: Sequence[listener_components_pb2.Filter] = ()


class PolicyIndex:
    """The policies of one generation of the config, by namespace."""

    def __init__(self, mesh: MeshState) -> None:
        self._mesh = mesh
        self._by_namespace: dict[str, list[_Policy]] = defaultdict(list)
        for authorization in mesh.config.authorization_policies:
            self._by_namespace[authorization.namespace].append(authorization)
        for authentication in mesh.config.request_authentications:
            self._by_namespace[authentication.namespace].append(authentication)
        self._found: dict[tuple[str, Labels], Policies] = {}

    def of(self, proxy: Proxy) -> Policies:
        """The policies that select a proxy."""
        if not self._by_namespace:
            return NO_POLICIES
        key = (proxy.namespace, as_labels(proxy.labels))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = self._select(proxy)
        return found

    def _select(self, proxy: Proxy) -> Policies:
        root = self._mesh.settings.root_namespace
        listed = [p for ns in dict.fromkeys((root, proxy.namespace)) for p in self._by_namespace.get(ns, ())]
        chosen = [p for p in listed if _applies(p, proxy)]
        if not chosen:
            return NO_POLICIES
        authorizations = tuple(p for p in chosen if isinstance(p.spec, AuthorizationPolicy))
        authentications = tuple(p for p in chosen if isinstance(p.spec, RequestAuthentication))
        sources = {key_source(rule) for p in authentications for rule in p.spec.jwt_rules}
        known = self._mesh.jwks
        return Policies(
            names=tuple(str(p) for p in chosen),
            authorizations=authorizations,
            authentications=authentications,
            keys=tuple((source, known[source]) for source in sorted(sources) if source in known),
            authorizers=tuple(self._authorizers(authorizations)),
        )

    def _authorizers(self, policies: Iterable[Resource[AuthorizationPolicy]]) -> Iterable[Authorizer]:
        wanted = {p.spec.provider.name for p in policies if p.spec.provider is not None}
        names, root = self._mesh.names, self._mesh.settings.root_namespace
        for provider in self._mesh.settings.extension_providers:
            settings = provider.envoy_ext_authz_grpc or provider.envoy_ext_authz_http
            if provider.name in wanted and settings is not None:
                namespace, _, host = settings.service.rpartition("/")
                yield Authorizer(provider.name, resolve_host(names, host, namespace or root), provider)


def _applies(policy: _Policy, proxy: Proxy) -> bool:
    spec = policy.spec
    targets = spec.target_refs or ((spec.target_ref,) if spec.target_ref is not None else ())
    if targets:
        return policy.namespace == proxy.namespace and any(_is_target(target, policy, proxy) for target in targets)
    selector: LabelSelector | None = spec.selector
    return selector is None or proxy.labels.items() >= selector.match_labels.items()


def _is_target(target: PolicyTargetReference, policy: _Policy, proxy: Proxy) -> bool:
    is_gateway = target.group == "gateway.networking.k8s.io" and target.kind == "Gateway"
    named = proxy.labels.get(_GATEWAY_NAME)
    return is_gateway and target.name == named and target.namespace in {None, "", policy.namespace}


# the filters ------------------------------------------------------------------------------------------------------


def security_filters(policies: Policies, settings: MeshSettings, *, is_gateway: bool = False) -> SecurityFilters:
    """The filters that enforce the policies."""
    if policies is NO_POLICIES:
        return SecurityFilters()
    domains = (settings.trust_domain, *settings.trust_domain_aliases)
    jwt_rules = [rule for p in policies.authentications for rule in p.spec.jwt_rules]
    http = [_http(name, message) for name, message in _custom(policies, domains, is_tcp=False)]
    if jwt_rules:
        http.append(_http(JWT_FILTER, jwt_authentication(jwt_rules, dict(policies.keys), is_gateway=is_gateway)))
    network = [_network(name, message) for name, message in _custom(policies, domains, is_tcp=True)]
    for action in (Action.AUDIT, Action.DENY, Action.ALLOW):
        chosen = [p for p in policies.authorizations if p.spec.action is action]
        if chosen:
            http.append(_http(HTTP_RBAC, _enforced(chosen, action, domains, is_tcp=False)))
            network.append(_network(TCP_RBAC, _enforced(chosen, action, domains, is_tcp=True)))
    return SecurityFilters(http, network)


def _http(name: str, message: Any) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=pack(message))


def _network(name: str, message: Any) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(message))


def _enforced(
    policies: list[Resource[AuthorizationPolicy]], action: Action, domains: tuple[str, ...], *, is_tcp: bool
) -> Any:
    """The RBAC filter of one action: policies in dry run are its shadow rules."""
    made = tcp_rbac_pb2.RBAC(stat_prefix=_TCP_STATS) if is_tcp else http_rbac_pb2.RBAC()
    enforced = [p for p in policies if not is_dry_run(p)]
    reported = [p for p in policies if is_dry_run(p)]
    if enforced:
        made.rules.CopyFrom(rules(enforced, action, domains, is_tcp=is_tcp))
    if reported:
        made.shadow_rules.CopyFrom(rules(reported, action, domains, is_tcp=is_tcp))
        made.shadow_rules_stat_prefix = _DRY_RUN_STATS.get(action, "")
    return made


def _custom(policies: Policies, domains: tuple[str, ...], *, is_tcp: bool) -> Iterable[tuple[str, Any]]:
    """For each authorizer, what finds the requests that it has to judge, and what asks it.

    A policy whose authorizer is not known denies what its rules match.
    """
    rbac_filter = TCP_RBAC if is_tcp else HTTP_RBAC
    known = {authorizer.name: authorizer for authorizer in policies.authorizers}
    by_name: dict[str, list[Resource[AuthorizationPolicy]]] = defaultdict(list)
    for policy in policies.authorizations:
        if policy.spec.action is Action.CUSTOM and policy.spec.provider is not None and not is_dry_run(policy):
            by_name[policy.spec.provider.name].append(policy)
    for name, chosen in sorted(by_name.items()):
        authorizer = known.get(name)
        prefix = authorizer.rule_prefix if authorizer is not None else f"istio-ext-authz-{name}-"
        found = rules(chosen, Action.CUSTOM, domains, is_tcp=is_tcp, prefix=prefix)
        if authorizer is None:
            yield rbac_filter, _refusing(found, is_tcp=is_tcp)
            continue
        asking = authorizer.tcp(rbac_filter) if is_tcp else authorizer.http(rbac_filter)
        if asking is None:
            continue
        made = tcp_rbac_pb2.RBAC(stat_prefix=_TCP_STATS) if is_tcp else http_rbac_pb2.RBAC()
        made.shadow_rules.CopyFrom(found)
        made.shadow_rules_stat_prefix = SHADOW_PREFIX
        yield rbac_filter, made
        yield (TCP_EXT_AUTHZ if is_tcp else HTTP_EXT_AUTHZ), asking


def _refusing(found: rbac_pb2.RBAC, *, is_tcp: bool) -> Any:
    made = tcp_rbac_pb2.RBAC(stat_prefix=_TCP_STATS) if is_tcp else http_rbac_pb2.RBAC()
    made.rules.action = rbac_pb2.RBAC.DENY
    for name, policy in found.policies.items():
        made.rules.policies[name + _BAD_CUSTOM].CopyFrom(policy)
    return made
