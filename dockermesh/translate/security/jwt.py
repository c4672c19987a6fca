"""RequestAuthentications as Envoy's jwt_authn filter.

Invariants:
- A token that is there must be valid; a request without one passes (an AuthorizationPolicy asks for
  one).
- A key set that is not known accepts no token, and keeps nothing else from working.

Source: Istio's *RequestAuthentication* reference; `pilot/pkg/security/authn` for how several rules
are combined.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2
from google.protobuf import empty_pb2

from dockermesh.config.api.request_authentication import JWTRule, RequestAuthentication
from dockermesh.config.resource import Resource
from dockermesh.translate.envoy.claims import JWT_HEADER, JWT_PAYLOAD
from dockermesh.translate.security.key_sets import REJECTING_KEYS, usable_keys

DISCOVERY_PATH = "/.well-known/openid-configuration"
"""Where an issuer says what its `jwks_uri` is. Source: OpenID Connect Discovery 1.0, section 4."""
_FETCH_S = 5.0
_SPACE_DELIMITED = ("permission", "scope")


def key_source(rule: JWTRule) -> str:
    """The URL from which the rule's keys have to be fetched; empty if they are in the rule."""
    if rule.jwks:
        return ""
    return rule.jwks_uri or rule.issuer.rstrip("/") + DISCOVERY_PATH


def wanted_keys(
    policies: Iterable[Resource[RequestAuthentication]],
) -> dict[str, float]:
    """The URLs of key sets, with the seconds that fetching each may take."""
    found: dict[str, float] = {}
    for rule in (rule for policy in policies for rule in policy.spec.jwt_rules):
        source = key_source(rule)
        if source.startswith(("http://", "https://")):
            limit = (
                rule.timeout.total_seconds() if rule.timeout is not None else _FETCH_S
            )
            found[source] = max(limit, found.get(source, 0.0))
    return found


def jwt_authentication(
    rules: Iterable[JWTRule], keys: Mapping[str, str], *, is_gateway: bool
) -> config_pb2.JwtAuthentication:
    """The filter for all rules that select a workload. `keys` are fetched key sets by URL."""
    # As Istio does: providers are numbered, and equal rules have equal numbers in any order.
    ordered = sorted(rules, key=lambda rule: rule.issuer)
    providers = {
        (name := f"origins-{index}"): _provider(name, rule, keys, is_gateway)
        for index, rule in enumerate(ordered)
    }
    return config_pb2.JwtAuthentication(
        providers=providers,
        rules=[
            config_pb2.RequirementRule(
                match=route_components_pb2.RouteMatch(prefix="/"),
                requires=_requirement(list(providers)),
            )
        ],
        # A browser sends no token with the question whether it may send one.
        bypass_cors_preflight=True,
    )


def _provider(
    name: str, rule: JWTRule, keys: Mapping[str, str], is_gateway: bool
) -> config_pb2.JwtProvider:
    text = usable_keys(rule.jwks or keys.get(key_source(rule), "")) or REJECTING_KEYS
    return config_pb2.JwtProvider(
        issuer=rule.issuer,
        audiences=rule.audiences,
        local_jwks=base_pb2.DataSource(inline_string=text),
        forward=rule.forward_original_token,
        forward_payload_header=rule.output_payload_to_header,
        # Where policies and routes look for claims. `scope` is one text of several words (RFC
        # 8693): only as a list can a rule ask for one of them.
        payload_in_metadata=JWT_PAYLOAD,
        # For `scripts.NOTHING_IGNORED`; apart by provider, as several may have taken a token each.
        header_in_metadata=f"{JWT_HEADER}{name}",
        normalize_payload_in_metadata=config_pb2.JwtProvider.NormalizePayload(
            space_delimited_claims=sorted(
                {*_SPACE_DELIMITED, *rule.space_delimited_claims}
            )
        ),
        from_headers=[
            config_pb2.JwtHeader(name=h.name, value_prefix=h.prefix)
            for h in rule.from_headers
        ],
        from_params=rule.from_params,
        from_cookies=rule.from_cookies,
        claim_to_headers=[
            config_pb2.JwtClaimToHeader(
                header_name=entry.header, claim_name=entry.claim
            )
            for entry in rule.output_claim_to_headers
        ],
        # A gateway's routes may ask for claims, which are only known now.
        clear_route_cache=is_gateway,
    )


def _requirement(names: list[str]) -> config_pb2.JwtRequirement:
    """A valid token of any provider, or each provider's token valid or missing.

    The first half is for providers that look in the same place, where the token of one is invalid
    for the other.
    """
    single = [config_pb2.JwtRequirement(provider_name=name) for name in names]
    optional = [
        _any_of([one, config_pb2.JwtRequirement(allow_missing=empty_pb2.Empty())])
        for one in single
    ]
    if len(optional) == 1:
        return optional[0]

    every = config_pb2.JwtRequirement(
        requires_all=config_pb2.JwtRequirementAndList(requirements=optional)
    )
    return _any_of([*single, every])


def _any_of(requirements: list[config_pb2.JwtRequirement]) -> config_pb2.JwtRequirement:
    return config_pb2.JwtRequirement(
        requires_any=config_pb2.JwtRequirementOrList(requirements=requirements)
    )
