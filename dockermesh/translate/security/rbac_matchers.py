"""The attributes of AuthorizationPolicies as Envoy's RBAC matchers.

Invariant: an attribute that Envoy can only see in HTTP is marked so, and is never turned into a
matcher for TCP.

Source of the attributes: Istio's *Authorization Policy* and *Authorization Policy Conditions*
references. The form of each matcher is Istio's own, so that tools which read RBAC filters find what
they expect. Peers are matched by `authenticated.principal_name`, which upstream Envoy fills from
the certificate's URI.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import address_pb2, extension_pb2
from envoy.config.rbac.v3 import rbac_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from envoy.type.matcher.v3 import path_pb2, regex_pb2, string_pb2, value_pb2

from dockermesh.config.rules.path_template import check_template
from dockermesh.config.rules.regex import literal, literal_but
from dockermesh.translate.envoy.claims import (
    JWT_FILTER,
    JWT_PAYLOAD,
    claim_matcher,
    metadata_matcher,
)
from dockermesh.translate.envoy.packing import pack

Matcher = Any
"""An rbac_pb2.Permission or an rbac_pb2.Principal; those of one rule's half are never mixed."""
_String = string_pb2.StringMatcher
_Value = value_pb2.ValueMatcher
_SPIFFE = "spiffe://"
_OPERATOR = re.compile(r"\{\*\*?\}")


@dataclass(frozen=True, slots=True)
class Logic:
    """How matchers of one half of a rule are combined."""

    anything: Matcher
    all_of: Callable[[Iterable[Matcher]], Matcher]
    any_of: Callable[[Iterable[Matcher]], Matcher]
    none_of: Callable[[Matcher], Matcher]


PERMISSIONS = Logic(
    rbac_pb2.Permission(any=True),
    lambda items: rbac_pb2.Permission(and_rules=rbac_pb2.Permission.Set(rules=items)),
    lambda items: rbac_pb2.Permission(or_rules=rbac_pb2.Permission.Set(rules=items)),
    lambda item: rbac_pb2.Permission(not_rule=item),
)
PRINCIPALS = Logic(
    rbac_pb2.Principal(any=True),
    lambda items: rbac_pb2.Principal(and_ids=rbac_pb2.Principal.Set(ids=items)),
    lambda items: rbac_pb2.Principal(or_ids=rbac_pb2.Principal.Set(ids=items)),
    lambda item: rbac_pb2.Principal(not_id=item),
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """Something that a rule can ask for: `matcher` makes one matcher out of values of which one
    must hold.
    """

    logic: Logic
    matcher: Callable[[tuple[str, ...]], Matcher]
    is_http: bool = False


def _each(
    logic: Logic, leaf: Callable[[str], Matcher], *, is_http: bool = False
) -> Attribute:
    return Attribute(
        logic, lambda values: logic.any_of([leaf(value) for value in values]), is_http
    )


# how values are compared
# ------------------------------------------------------------------------------------------


def _regex(expression: str) -> string_pb2.StringMatcher:
    return _String(safe_regex=regex_pb2.RegexMatcher(regex=expression))


_ANY_TEXT = _regex(".+")


def text_matcher(value: str, *, ignore_case: bool = False) -> string_pb2.StringMatcher:
    """`*` is any text but the empty one, `a*` a prefix, `*a` a suffix, everything else exact."""
    if value == "*":
        return _ANY_TEXT
    if value.startswith("*"):
        return _String(suffix=value[1:], ignore_case=ignore_case)
    if value.endswith("*"):
        return _String(prefix=value[:-1], ignore_case=ignore_case)
    return _String(exact=value, ignore_case=ignore_case)


def _one_of(values: Iterable[str]) -> value_pb2.ValueMatcher:
    found = [_Value(string_match=text_matcher(value)) for value in values]
    return (
        found[0]
        if len(found) == 1
        else _Value(or_match=value_pb2.OrMatcher(value_matchers=found))
    )


def _cidr(text: str) -> address_pb2.CidrRange:
    address, _, length = text.partition("/")
    parsed = ipaddress.ip_address(address)
    return address_pb2.CidrRange(
        address_prefix=str(parsed),
        prefix_len={"value": int(length) if length else parsed.max_prefixlen},
    )


# the peer
# --------------------------------------------------------------------------------------------------


def _authenticated(name: string_pb2.StringMatcher) -> rbac_pb2.Principal:
    return rbac_pb2.Principal(
        authenticated=rbac_pb2.Principal.Authenticated(principal_name=name)
    )


def _principal(value: str) -> rbac_pb2.Principal:
    if value == "*":
        return _authenticated(_ANY_TEXT)
    if value.startswith("*"):
        return _authenticated(_regex(f"{_SPIFFE}.*{literal(value[1:])}"))
    return _authenticated(text_matcher(_SPIFFE + value))


def _namespace(value: str) -> rbac_pb2.Principal:
    name = ".*".join(literal(part) for part in value.split("*"))
    return _authenticated(_regex(f".*/ns/{name}/.*"))


def _trust_domain(value: str) -> rbac_pb2.Principal:
    """A domain ends at the first slash: a dot in it is a dot, and a wildcard reaches no further."""
    if "*" not in value:
        return _authenticated(_String(prefix=f"{_SPIFFE}{value}/"))
    return _authenticated(
        _regex(
            _SPIFFE + "[^/]*".join(literal(part) for part in value.split("*")) + "/.*"
        )
    )


def service_account(policy_namespace: str) -> Attribute:
    """`source.serviceAccount`: `account` of the policy's namespace, or `namespace/account`."""

    def leaf(value: str) -> rbac_pb2.Principal:
        namespace, slash, account = value.rpartition("/")
        within = literal(namespace if slash else policy_namespace)
        return _authenticated(
            _regex(f"{_SPIFFE}.+/ns/{within}/(.+/|)sa/{literal(account)}(/.+)?")
        )

    return _each(PRINCIPALS, leaf)


# the end user
# --------------------------------------------------------------------------------------------------


def _claim_values(*path: str) -> Attribute:
    """A claim that is one of the values, or a list with one of them."""
    return Attribute(
        PRINCIPALS,
        lambda values: rbac_pb2.Principal(
            metadata=claim_matcher(path, _one_of(values))
        ),
        is_http=True,
    )


def _request_principal(value: str) -> rbac_pb2.Principal:
    """`<iss>/<sub>`; the issuer may contain slashes, the subject not. A wildcard stands at one end
    only.
    """
    issuer, slash, subject = value.rpartition("/")
    if slash and value.startswith("*"):
        return _issued(text_matcher(issuer), _String(exact=subject))

    if slash:
        return _issued(
            _String(exact=issuer),
            text_matcher(subject) if value.endswith("*") else _String(exact=subject),
        )

    if value.startswith("*"):
        return _issued(_ANY_TEXT, text_matcher(value))
    return _issued(
        text_matcher(value), _ANY_TEXT if value.endswith("*") else _String(exact="")
    )


def _issued(
    issuer: string_pb2.StringMatcher, subject: string_pb2.StringMatcher
) -> rbac_pb2.Principal:
    pairs = (("iss", issuer), ("sub", subject))
    found = (
        metadata_matcher(JWT_FILTER, (JWT_PAYLOAD, name), _Value(string_match=text))
        for name, text in pairs
    )
    return PRINCIPALS.all_of(
        [rbac_pb2.Principal(metadata=matcher) for matcher in found]
    )


# the request
# --------------------------------------------------------------------------------------------------


def _header(
    name: str, value: str, *, ignore_case: bool = False
) -> route_components_pb2.HeaderMatcher:
    if value == "*":
        return route_components_pb2.HeaderMatcher(name=name, present_match=True)
    return route_components_pb2.HeaderMatcher(
        name=name, string_match=text_matcher(value, ignore_case=ignore_case)
    )


def _inline_header(name: str, value: str) -> route_components_pb2.HeaderMatcher:
    """One of the values that a header lists, separated by commas."""
    if value == "*":
        return _header(name, value)
    quoted = ".*".join(literal(part) for part in _wildcard_parts(value))
    listed = f"^{quoted}$|^{quoted},.*|.*,{quoted},.*|.*,{quoted}$"
    return route_components_pb2.HeaderMatcher(
        name=name, safe_regex_match=regex_pb2.RegexMatcher(regex=listed)
    )


def _wildcard_parts(value: str) -> tuple[str, ...]:
    if value.startswith("*"):
        return "", value[1:]
    return (value[:-1], "") if value.endswith("*") else (value,)


def _path(value: str) -> rbac_pb2.Permission:
    if "{*}" not in value and "{**}" not in value:
        return rbac_pb2.Permission(
            url_path=path_pb2.PathMatcher(path=text_matcher(value))
        )
    template = value.replace("{*}", "*").replace("{**}", "**")

    if "{" in template or check_template(template):
        # Envoy 1.40 crashes at a template that it cannot read.
        return rbac_pb2.Permission(
            url_path=path_pb2.PathMatcher(path=_regex(_template_regex(value)))
        )

    return rbac_pb2.Permission(
        uri_template=extension_pb2.TypedExtensionConfig(
            name="uri-template",
            typed_config=pack(
                uri_template_match_pb2.UriTemplateMatchConfig(path_template=template)
            ),
        )
    )


def _template_regex(value: str) -> str:
    return literal_but(value, _OPERATOR, lambda o: ".*" if o == "{**}" else "[^/]+")


def _request_header(name: str, match: Callable[[str, str], Any]) -> Attribute:
    return _each(
        PRINCIPALS,
        lambda value: rbac_pb2.Principal(header=match(name, value)),
        is_http=True,
    )


def _envoy_metadata(key: str) -> Attribute:
    """`experimental.envoy.filters.a.b[c]`; a value in brackets asks for a list with it."""
    name, _, path = key.removeprefix("experimental.").removesuffix("]").partition("[")

    def one(value: str) -> value_pb2.ValueMatcher:
        if value.startswith("[") and value.endswith("]"):
            return _Value(
                list_match=value_pb2.ListMatcher(
                    one_of=_Value(string_match=text_matcher(value.strip("[]")))
                )
            )
        return _Value(string_match=text_matcher(value))

    def matcher(values: tuple[str, ...]) -> rbac_pb2.Permission:
        found = [one(value) for value in values]
        joined = (
            found[0]
            if len(found) == 1
            else _Value(or_match=value_pb2.OrMatcher(value_matchers=found))
        )
        return rbac_pb2.Permission(metadata=metadata_matcher(name, [path], joined))

    return Attribute(PERMISSIONS, matcher)


# Names of hosts are the same in any case (RFC 9110, section 4.2.3); all else is compared as it is.
HOSTS = _each(
    PERMISSIONS,
    lambda v: rbac_pb2.Permission(header=_header(":authority", v, ignore_case=True)),
    is_http=True,
)
METHODS = _each(
    PERMISSIONS,
    lambda v: rbac_pb2.Permission(header=_header(":method", v)),
    is_http=True,
)
PATHS = _each(PERMISSIONS, _path, is_http=True)
PORTS = _each(PERMISSIONS, lambda v: rbac_pb2.Permission(destination_port=int(v)))
SOURCE_PRINCIPALS = _each(PRINCIPALS, _principal)
NAMESPACES = _each(PRINCIPALS, _namespace)
TRUST_DOMAINS = _each(PRINCIPALS, _trust_domain)
REQUEST_PRINCIPALS = _each(PRINCIPALS, _request_principal, is_http=True)
# The one is who connects, the other whom a trusted proxy names in X-Forwarded-For.
IP_BLOCKS = _each(PRINCIPALS, lambda v: rbac_pb2.Principal(direct_remote_ip=_cidr(v)))
REMOTE_IP_BLOCKS = _each(PRINCIPALS, lambda v: rbac_pb2.Principal(remote_ip=_cidr(v)))

_CONDITIONS = {
    "source.ip": IP_BLOCKS,
    "remote.ip": REMOTE_IP_BLOCKS,
    "source.namespace": NAMESPACES,
    "source.principal": SOURCE_PRINCIPALS,
    "source.trustDomain": TRUST_DOMAINS,
    "request.auth.principal": REQUEST_PRINCIPALS,
    "request.auth.audiences": _claim_values("aud"),
    "request.auth.presenter": _claim_values("azp"),
    "destination.ip": _each(
        PERMISSIONS, lambda v: rbac_pb2.Permission(destination_ip=_cidr(v))
    ),
    "destination.port": PORTS,
    "connection.sni": _each(
        PERMISSIONS,
        lambda v: rbac_pb2.Permission(requested_server_name=text_matcher(v)),
    ),
}


def condition(key: str, policy_namespace: str) -> Attribute | None:
    """The attribute of a condition's key; None if it is unknown, whose rule must then not be used
    at all.
    """
    found = _CONDITIONS.get(key)
    if found is not None:
        return found
    if key == "source.serviceAccount":
        return service_account(policy_namespace)

    name, bracket, rest = key.partition("[")
    # Envoy refuses the name of a header with any of these characters.
    if not bracket or not rest.endswith("]") or re.search(r"[\0\r\n]", rest):
        return None
    if name == "request.headers":
        return _request_header(rest[:-1], _header)
    if name == "request.experimental.inline.headers":
        return _request_header(rest[:-1], _inline_header)
    if name == "request.auth.claims":
        return _claim_values(*rest[:-1].split("]["))

    return (
        _envoy_metadata(key) if name.startswith("experimental.envoy.filters.") else None
    )
