"""What rules of AuthorizationPolicies match: the RBAC that is made of them, evaluated as Envoy
would.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from envoy.extensions.path.match.uri_template.v3 import uri_template_match_pb2
from meshes import edge

from dockermesh.config.api.authorization_policy import Action
from dockermesh.translate.security.rbac import is_dry_run, rules


@dataclass(frozen=True)
class Request:
    """What Envoy knows of a request, or of a connection."""

    peer: str = ""
    path: str = "/"
    method: str = "GET"
    host: str = "shop"
    headers: Mapping[str, str] = field(default_factory=dict)
    port: int = 80
    address: str = "10.0.0.9"
    direct: str = "10.0.0.1"
    client: str = "10.0.0.1"
    sni: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def claims(self, **claims: Any) -> Request:
        return Request(metadata={"envoy.filters.http.jwt_authn": {"payload": claims}})


def text(matcher: Any, value: str | None) -> bool:
    if value is None:
        return False
    kind = matcher.WhichOneof("match_pattern")
    wanted = (
        matcher.safe_regex.regex if kind == "safe_regex" else getattr(matcher, kind)
    )
    if matcher.ignore_case:
        wanted, value = wanted.lower(), value.lower()
    if kind == "safe_regex":
        return re.fullmatch(wanted, value) is not None
    return {
        "exact": value == wanted,
        "prefix": value.startswith(wanted),
        "suffix": value.endswith(wanted),
    }[kind]


def metadata_value(matcher: Any, value: Any) -> bool:
    kind = matcher.WhichOneof("match_pattern")
    if kind == "or_match":
        return any(metadata_value(m, value) for m in matcher.or_match.value_matchers)
    if kind == "list_match":
        return isinstance(value, list) and any(
            metadata_value(matcher.list_match.one_of, item) for item in value
        )
    return isinstance(value, str) and text(matcher.string_match, value)


def leaf(kind: str, matcher: Any, request: Request) -> bool:
    value = getattr(matcher, kind)
    if kind == "header":
        known = {":authority": request.host, ":method": request.method} | dict(
            request.headers
        )
        found = known.get(value.name)
        if value.WhichOneof("header_match_specifier") == "safe_regex_match":
            return (
                found is not None
                and re.fullmatch(value.safe_regex_match.regex, found) is not None
            )
        return (
            found is not None
            if value.present_match
            else text(value.string_match, found)
        )
    if kind == "metadata":
        place: Any = request.metadata.get(value.filter, {})
        for segment in value.path:
            place = place.get(segment.key, {}) if isinstance(place, dict) else {}
        return metadata_value(value.value, place)
    if kind == "uri_template":
        template = uri_template_match_pb2.UriTemplateMatchConfig()
        value.typed_config.Unpack(template)
        parts = re.split(r"(\*\*?)", template.path_template)
        regex = "".join(
            {"*": "[^/]+", "**": ".*"}.get(part, re.escape(part)) for part in parts
        )
        return re.fullmatch(regex, request.path) is not None
    if kind in {"direct_remote_ip", "remote_ip", "destination_ip"}:
        address = {"direct_remote_ip": request.direct, "remote_ip": request.client}.get(
            kind, request.address
        )
        network = ipaddress.ip_network(
            f"{value.address_prefix}/{value.prefix_len.value}", strict=False
        )
        return ipaddress.ip_address(address) in network
    plain = {"any": True, "destination_port": value == request.port}
    if kind in plain:
        return plain[kind]
    if kind == "authenticated":
        return bool(request.peer) and text(value.principal_name, request.peer)
    return text(
        value.path if kind == "url_path" else value,
        request.path if kind == "url_path" else request.sni,
    )


def holds(matcher: Any, request: Request) -> bool:
    kind = matcher.WhichOneof("rule" if hasattr(matcher, "and_rules") else "identifier")
    inner = getattr(matcher, kind)
    if kind in {"and_rules", "or_rules", "and_ids", "or_ids"}:
        found = [
            holds(item, request)
            for item in (inner.rules if "rules" in kind else inner.ids)
        ]
        return all(found) if kind.startswith("and") else any(found)
    return (
        not holds(inner, request)
        if kind.startswith("not_")
        else leaf(kind, matcher, request)
    )


def matched(
    rule: str,
    request: Request,
    *,
    action: str = "ALLOW",
    is_tcp: bool = False,
    **more: Any,
) -> bool:
    """Whether a rule matches a request."""
    document = f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: one, namespace: shop}}
spec: {{action: {action}, rules: [{rule}]}}
"""
    policies = edge(document).authorization_policies
    made = rules(
        policies, Action(action), more.get("domains", ("cluster.local",)), is_tcp=is_tcp
    )
    return any(
        any(holds(p, request) for p in policy.permissions)
        and any(holds(p, request) for p in policy.principals)
        for policy in made.policies.values()
    )


FRONT = "spiffe://cluster.local/ns/shop/sa/front"


def source(fields: str) -> str:
    return f"{{from: [{{source: {{{fields}}}}}]}}"


def operation(fields: str) -> str:
    return f"{{to: [{{operation: {{{fields}}}}}]}}"


def when(key: str, values: str) -> str:
    return f'{{when: [{{key: "{key}", values: {values}}}]}}'


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        (
            source("principals: [cluster.local/ns/shop/sa/front]"),
            Request(FRONT),
            Request(f"{FRONT}er"),
        ),
        (
            source('principals: ["cluster.local/ns/shop/*"]'),
            Request(FRONT),
            Request(FRONT.replace("shop", "x")),
        ),
        (source('principals: ["*/sa/front"]'), Request(FRONT), Request()),
        (source('principals: ["*"]'), Request(FRONT), Request()),
        (source('notPrincipals: ["*"]'), Request(), Request(FRONT)),
        (
            source("namespaces: [shop]"),
            Request(FRONT),
            Request(FRONT.replace("/shop/", "/shopping/")),
        ),
        (
            source("notNamespaces: [shop]"),
            Request(FRONT.replace("shop", "x")),
            Request(FRONT),
        ),
        (
            source("serviceAccounts: [front]"),
            Request(FRONT),
            Request(FRONT.replace("shop", "x")),
        ),
        (
            source("serviceAccounts: [x/front]"),
            Request(FRONT.replace("shop", "x")),
            Request(FRONT),
        ),
        (source("notServiceAccounts: [front]"), Request(f"{FRONT}er"), Request(FRONT)),
        (
            source("trustDomains: [cluster.local]"),
            Request(FRONT),
            Request(FRONT.replace("cluster", "other")),
        ),
        (
            source("trustDomains: [cluster.local]"),
            Request(FRONT),
            Request(FRONT.replace("cluster.", "cluster-")),
        ),
        (
            source('trustDomains: ["*.local"]'),
            Request(FRONT),
            Request("spiffe://evil/ns/a.local/sa/front"),
        ),
        (
            source('trustDomains: ["clu*"]'),
            Request(FRONT),
            Request(FRONT.replace("cluster", "a/cluster")),
        ),
        (
            source('notTrustDomains: ["clu*"]'),
            Request(FRONT.replace("cluster", "other")),
            Request(FRONT),
        ),
        (source("ipBlocks: [10.0.0.0/30]"), Request(), Request(direct="10.0.0.9")),
        (source("ipBlocks: ['fd00::/16']"), Request(direct="fd00::1"), Request()),
        (
            source("remoteIpBlocks: [6.6.6.6]"),
            Request(client="6.6.6.6"),
            Request(direct="6.6.6.6"),
        ),
        (operation("hosts: [shop]"), Request(host="SHOP"), Request(host="shop.evil")),
        (operation('hosts: ["*.shop"]'), Request(host="a.Shop"), Request(host="shop")),
        (operation("methods: [GET]"), Request(), Request(method="get")),
        (
            operation('paths: ["/admin*"]'),
            Request(path="/administrator"),
            Request(path="/Admin"),
        ),
        (
            operation('paths: ["/a/{*}/c"]'),
            Request(path="/a/b/c"),
            Request(path="/a/b/b/c"),
        ),
        (
            operation('paths: ["/a/{**}/c"]'),
            Request(path="/a/b/b/c"),
            Request(path="/a/b"),
        ),
        (operation('paths: ["{**}/c"]'), Request(path="/a/c"), Request(path="/a")),
        (operation('notPaths: ["/a/{*}"]'), Request(path="/a"), Request(path="/a/b")),
        (operation("ports: ['80']"), Request(), Request(port=81)),
        (operation("notPorts: ['80']"), Request(port=81), Request()),
        (
            when("request.headers[x]", "[a]"),
            Request(headers={"x": "a"}),
            Request(headers={"x": "a,b"}),
        ),
        (when("request.headers[x]", '["*"]'), Request(headers={"x": ""}), Request()),
        (
            when("request.experimental.inline.headers[x]", '["a.b", "c*"]'),
            Request(headers={"x": "z,a.b"}),
            Request(headers={"x": "axb"}),
        ),
        (when("destination.ip", "[10.0.0.9]"), Request(), Request(address="10.0.0.8")),
        (when("connection.sni", '["*.shop"]'), Request(sni="a.shop"), Request()),
        (
            when("experimental.envoy.filters.a.b[c]", '["[x]", y]'),
            Request(metadata={"envoy.filters.a.b": {"c": ["x"]}}),
            Request(metadata={"envoy.filters.a.b": {"c": "x"}}),
        ),
        (
            when("request.auth.claims[groups]", "[a]"),
            Request().claims(groups=["b", "a"]),
            Request().claims(groups="b"),
        ),
        (
            when("request.auth.claims[a][b]", "[c]"),
            Request().claims(a={"b": "c"}),
            Request().claims(b="c"),
        ),
        (
            when("request.auth.audiences", "[shop]"),
            Request().claims(aud="shop"),
            Request().claims(aud=["x"]),
        ),
        (
            when("request.auth.presenter", "[app]"),
            Request().claims(azp="app"),
            Request(),
        ),
    ],
)
def test_a_rule_matches_what_it_says_and_nothing_else(
    rule: str, yes: Request, no: Request
) -> None:
    assert matched(rule, yes)
    assert not matched(rule, no)


@pytest.mark.parametrize(
    ("value", "issuer", "subject", "expected"),
    [
        ("https://id/a/ann", "https://id/a", "ann", True),
        ("https://id/a/ann", "https://id", "a/ann", False),
        ("https://id/*", "https://id", "ann", True),
        ("https://id/*", "https://id/a", "ann", False),
        ("*/ann", "anybody", "ann", True),
        ("*/ann", "anybody", "joann", False),
        ("*ann", "anybody", "joann", True),
        ("*", "a", "b", True),
        ("*", "a", "", False),
        ("me*", "me-too", "ann", True),
        ("me", "me", "ann", False),
    ],
)
def test_a_request_principal_is_issuer_and_subject(
    value: str, issuer: str, subject: str, expected: bool
) -> None:
    request = Request().claims(iss=issuer, sub=subject)
    assert matched(source(f'requestPrincipals: ["{value}"]'), request) is expected


def test_fields_of_a_rule_are_a_conjunction_and_entries_a_choice() -> None:
    rule = (
        "{from: [{source: {namespaces: [shop]}}, {source: {ipBlocks: [6.6.6.6]}}],"
        " to: [{operation: {methods: [GET], paths: [/a]}}, {operation: {methods: [POST]}}],"
        " when: [{key: connection.sni, values: [a], notValues: [b]}]}"
    )
    assert matched(rule, Request(FRONT, path="/a", sni="a"))
    assert matched(rule, Request(direct="6.6.6.6", method="POST", sni="a"))
    assert not matched(rule, Request(FRONT, path="/b", sni="a"))
    assert not matched(rule, Request(path="/a", sni="a"))
    assert not matched(rule, Request(FRONT, path="/a", sni="b"))


def test_what_http_alone_knows_never_lets_a_tcp_connection_through() -> None:
    for rule in (
        operation("methods: [GET], ports: ['80']"),
        "{from: [{source: {requestPrincipals: [a/b]}}], to: [{operation: {ports: ['80']}}]}",
        "{to: [{operation: {ports: ['80']}}, {operation: {paths: [/a]}}]}",
        when("request.headers[x]", "[a]"),
    ):
        assert not matched(rule, Request(), is_tcp=True), rule
        assert matched(rule, Request(), is_tcp=True, action="DENY"), rule
    assert not matched(
        operation("methods: [GET], ports: ['81']"),
        Request(),
        is_tcp=True,
        action="DENY",
    )
    assert matched(operation("ports: ['80']"), Request(), is_tcp=True)


def test_no_rules_match_nothing_and_an_empty_rule_matches_all() -> None:
    assert not matched("", Request())
    assert matched("{}", Request())
    assert matched("{}", Request(), is_tcp=True)


@pytest.mark.parametrize(
    ("principal", "peer", "expected"),
    [
        ("cluster.local/ns/a/sa/b", "td/ns/a/sa/b", True),
        ("cluster.local/ns/a/sa/b", "old/ns/a/sa/b", True),
        ("cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b", False),
        ("old/ns/a/sa/b", "td/ns/a/sa/b", True),
        ("*ld/ns/a/sa/b", "td/ns/a/sa/b", True),
        ("*ld/ns/a/sa/b", "bold/ns/a/sa/b", True),
        ("elsewhere/ns/a/sa/b", "td/ns/a/sa/b", False),
        ("elsewhere/ns/a/sa/b", "elsewhere/ns/a/sa/b", True),
        ("t*/ns/a/sa/b", "old/ns/a/sa/b", True),
        ("old/ns/a/sa", "td/ns/a/sa", False),
    ],
)
def test_principals_hold_in_all_of_the_mesh_s_trust_domains(
    principal: str, peer: str, expected: bool
) -> None:
    for rule in (
        source(f'principals: ["{principal}"]'),
        when("source.principal", f'["{principal}"]'),
    ):
        assert (
            matched(rule, Request(f"spiffe://{peer}"), domains=("td", "old"))
            is expected
        )


def test_a_trust_domain_s_alias_may_be_a_pattern() -> None:
    rule = source("principals: [team-a/ns/a/sa/b]")
    assert matched(rule, Request("spiffe://td/ns/a/sa/b"), domains=("td", "team-*"))
    assert not matched(
        rule, Request("spiffe://td/ns/a/sa/b"), domains=("td", "other-*")
    )


def test_a_trust_domain_is_a_condition_too() -> None:
    rule = when("source.trustDomain", '["*.local"]')
    assert matched(rule, Request("spiffe://cluster.local/ns/a/sa/b"))
    assert not matched(rule, Request("spiffe://clusterXlocal/ns/a/sa/b"))
    rule = when("source.trustDomain", "[old]")
    assert matched(rule, Request("spiffe://td/ns/a/sa/b"), domains=("td", "old"))


def test_a_trust_domain_stands_for_its_aliases() -> None:
    assert matched(
        source("trustDomains: [old]"),
        Request("spiffe://td/ns/a/sa/b"),
        domains=("td", "old"),
    )
    assert not matched(
        source("notTrustDomains: [old]"),
        Request("spiffe://td/ns/a/sa/b"),
        domains=("td", "old"),
    )


def peer(identity: str) -> Request:
    return Request(f"spiffe://cluster.local/{identity}")


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        (source("namespaces: [prod.x]"), "ns/prod.x/sa/a", "ns/prodAx/sa/a"),
        (source('namespaces: ["a|b"]'), "ns/a|b/sa/a", "ns/a/sa/a"),
        (source('namespaces: ["prod.*"]'), "ns/prod.eu/sa/a", "ns/prod-eu/sa/a"),
        (source('namespaces: ["*.x"]'), "ns/prod.x/sa/a", "ns/prodAx/sa/a"),
        (source('namespaces: ["a(b"]'), "ns/a(b/sa/c", "ns/ab/sa/c"),
        (when("source.namespace", "[prod.x]"), "ns/prod.x/sa/a", "ns/prodAx/sa/a"),
        (source('principals: ["*/sa/a.b"]'), "ns/x/sa/a.b", "ns/x/sa/aXb"),
        (source('principals: ["*/sa/c("]'), "ns/x/sa/c(", "ns/x/sa/c"),
        (when("source.principal", '["*/a.b"]'), "ns/x/sa/a.b", "ns/x/sa/aXb"),
        (source("serviceAccounts: [a.b]"), "ns/shop/sa/a.b", "ns/shop/sa/aXb"),
        (source('serviceAccounts: ["p.q/a"]'), "ns/p.q/sa/a", "ns/pXq/sa/a"),
        (when("source.serviceAccount", "[a+]"), "ns/shop/sa/a+", "ns/shop/sa/aa"),
    ],
)
def test_a_name_in_a_source_is_a_literal(rule: str, yes: str, no: str) -> None:
    assert matched(rule, peer(yes))
    assert not matched(rule, peer(no))


def test_dry_run_is_said_by_an_annotation() -> None:
    for value, expected in (
        ("true", True),
        ("T", True),
        ("false", False),
        ("0", False),
    ):
        policy = edge(f"""
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: one, annotations: {{istio.io/dry-run: "{value}"}}}}
spec: {{}}
""").authorization_policies[0]
        assert is_dry_run(policy) is expected
