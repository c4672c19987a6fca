"""Rules whose edges matter: names, hosts, headers, expressions, shadowing."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.config.documents import Reading, read_document, read_text
from dockermesh.config.hosts import (
    covering,
    fully_qualified,
    kubernetes_service,
    matches,
    most_specific,
)
from dockermesh.config.rules.cel import check_expression
from dockermesh.config.rules.headers import check_value
from dockermesh.config.rules.names import check_host, check_subnet
from dockermesh.config.rules.path_template import check_policy_path


@pytest.mark.parametrize(
    "host",
    ["a", "*", "*.a.b", "*-a.b", "*a.b", "a.b.", "A.b", "reviews.service.consul"],
)
def test_valid_hosts(host: str) -> None:
    assert check_host(host) == ""


@pytest.mark.parametrize(
    "host",
    [
        "",
        "a..b",
        "a.*.b",
        "**",
        "-a",
        "a.1",
        "a b",
        "a/b",
        "a|b",
        "x" * 64,
        "é.com",
        "a.b."[::-1],
    ],
)
def test_invalid_hosts(host: str) -> None:
    assert check_host(host) != ""


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.0/8", "2001:db8::", "2001:db8::/32", "172.1.2.16/16"]
)
def test_valid_subnets(text: str) -> None:
    assert check_subnet(text) == ""


@pytest.mark.parametrize(
    "text",
    ["", "a", "10.0.0.1/", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10.0.0.256", "1.2.3"],
)
def test_invalid_subnets(text: str) -> None:
    assert check_subnet(text) != ""


@pytest.mark.parametrize(
    "value",
    [
        "",
        "plain",
        "100%%",
        "%HOSTNAME%",
        "a %REQ(x-b)% c",
        '%A(["b", "c"])%',
        "tab\there",
    ],
)
def test_valid_header_values(value: str) -> None:
    assert check_value(value) == ""


@pytest.mark.parametrize(
    "value",
    ["%", "50%", "%START_TIME%%", "abc%123", "%REQ(x%", "%A([1])%", "line\nbreak"],
)
def test_invalid_header_values(value: str) -> None:
    assert check_value(value) != ""


@pytest.mark.parametrize(
    "expression",
    [
        "response.code",
        "response.code >= 400 && !has(a.b)",
        "a ? b : [1, 2.5][0]",
        "x in ['a', \"b\"]",
        "{'a': 1}.a",
        "size(-1)",
    ],
)
def test_valid_cel(expression: str) -> None:
    assert check_expression(expression) == ""


@pytest.mark.parametrize(
    "expression",
    ["", "a ==", "a b", "(a", "[1,", "a..b", "'x", "a ? b", "in", "=", "(" * 5000],
)
def test_invalid_cel(expression: str) -> None:
    assert check_expression(expression) != ""


def test_short_names_belong_to_the_namespace_of_the_resource() -> None:
    assert fully_qualified("reviews", "shop") == "reviews.shop.svc.cluster.local"
    assert fully_qualified("reviews.service.consul", "shop") == "reviews.service.consul"
    assert fully_qualified("*", "shop") == "*"
    assert kubernetes_service("reviews.shop.svc.cluster.local") == ("reviews", "shop")
    assert kubernetes_service("reviews.service.consul") is None


def test_wildcards() -> None:
    assert matches("*.example.com", "a.b.EXAMPLE.com")
    assert matches("*.com", "*.example.com")
    assert not matches("*.example.com", "example.com")
    assert not matches("a.com", "*.com")
    assert most_specific("a.b.com", ["*", "*.com", "*.b.com"]) == "*.b.com"
    assert most_specific("x", ["y"]) is None


@pytest.mark.parametrize("host", ["a.b.com", "*.b.com", "b.com", "*", "com", "x*"])
@pytest.mark.parametrize(
    "pattern", ["*", "*.com", "*.b.com", "a.b.com", "*b.com", "*com"]
)
def test_covering_agrees_with_matches(pattern: str, host: str) -> None:
    assert (covering({pattern}, host) is not None) == matches(pattern, host)


def virtual_service(spec: dict[str, Any], **metadata: Any) -> Reading:
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "spec": spec,
    }
    return read_document(document | {"metadata": {"name": "a", **metadata}})


def http(*matches: dict[str, Any] | None) -> dict[str, Any]:
    to = [{"destination": {"host": "b"}}]
    return {
        "hosts": ["b"],
        "http": [
            {"route": to} if m is None else {"match": [m], "route": to} for m in matches
        ],
    }


@pytest.mark.parametrize(
    ("rules", "shadowed"),
    [
        ((None, {"port": 80}), True),
        (({"uri": {"prefix": "/"}}, {"uri": {"exact": "/a"}}), True),
        (({"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/ab"}}), True),
        (({"uri": {"prefix": "/a"}}, {"uri": {"prefix": "/b"}}), False),
        (({"uri": {"prefix": "/a"}, "port": 80}, {"uri": {"prefix": "/a"}}), False),
        (
            (
                {"headers": {"x": {"exact": "1"}}},
                {"headers": {"x": {"exact": "1"}, "y": {"exact": "2"}}},
            ),
            True,
        ),
        (
            ({"headers": {"x": {"exact": "1"}}}, {"headers": {"x": {"exact": "2"}}}),
            False,
        ),
        (({"sourceLabels": {"app": "x"}}, {}), False),
        (
            (
                {"uri": {"prefix": "/A"}},
                {"uri": {"prefix": "/ab"}, "ignoreUriCase": True},
            ),
            False,
        ),
        (({"port": 80}, None), False),
    ],
)
def test_shadowed_rules(
    rules: tuple[dict[str, Any] | None, ...], shadowed: bool
) -> None:
    reading = virtual_service(http(*rules))
    assert reading.is_valid
    assert (
        any(
            "shadowed" in f.message and f.field == "spec.http[1]"
            for f in reading.findings
        )
        is shadowed
    )


def test_consequences_of_a_field_that_cannot_be_read_are_not_reported() -> None:
    spec = http(None)
    spec["http"][0]["route"] = [
        {"destination": {"host": 5}, "weight": "x"},
        {"destination": {"host": "b"}, "weight": 0},
    ]
    fields = [f.field for f in virtual_service(spec).findings]
    assert fields == [
        "spec.http[0].route[0].destination.host",
        "spec.http[0].route[0].weight",
    ]


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "kind"),
        ({"kind": "VirtualService"}, "apiVersion"),
        (
            {"kind": "VirtualService", "apiVersion": "networking.istio.io/v9"},
            "apiVersion",
        ),
        (
            {"kind": "VirtualService", "apiVersion": "security.istio.io/v1"},
            "apiVersion",
        ),
        ({"kind": "VirtualServise", "apiVersion": "networking.istio.io/v1"}, "kind"),
        ({"kind": ["x"], "apiVersion": 1}, "kind"),
    ],
)
def test_envelope(document: dict[str, Any], field: str) -> None:
    assert [f.field for f in read_document(document).findings] == [field]


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_version_of_networking(version: str) -> None:
    document = {
        "apiVersion": f"networking.istio.io/{version}",
        "kind": "DestinationRule",
        "metadata": {"name": "a"},
    }
    assert read_document(document | {"spec": {"host": "b"}}).is_valid


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {"name": "A_b"},
        {"name": "a", "namespace": "a.b"},
        {"name": "a", "labels": {"x": 1}},
    ],
)
def test_bad_metadata(metadata: Any) -> None:
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": metadata,
    }
    findings = read_document(document | {"spec": {"host": "b"}}).findings
    assert findings and all(f.field.startswith("metadata") for f in findings)


def test_lists_and_locations() -> None:
    text = """kind: List
apiVersion: v1
items:
- apiVersion: networking.istio.io/v1
  kind: DestinationRule
  metadata: {name: one, namespace: shop}
  spec: {host: a}
- apiVersion: networking.istio.io/v1
  kind: DestinationRule
  metadata: {name: two}
  spec: {hots: a}
"""
    reading = read_text(text, "rules.yaml", namespace="other")
    (one,) = reading.resources
    assert (str(one), str(one.location)) == ("DestinationRule shop/one", "rules.yaml:4")
    assert str(one.location_of("spec", "host")) == "rules.yaml:7"
    assert {(f.resource, f.line, f.field) for f in reading.findings} == {
        ("DestinationRule other/two", 11, "items[1].spec.hots"),
        ("DestinationRule other/two", 11, "items[1].spec.host"),
    }


def test_numbers_of_mesh_config_may_be_quoted() -> None:
    """As in Istio's task of external authorization, whose MeshConfig is protobuf's JSON; a
    resource's may not.
    """
    provider = (
        "{name: opa, envoyExtAuthzGrpc: {service: opa.foo.svc.cluster.local, port: %s}}"
    )
    for port in ("9000", "'9000'"):
        reading = read_text(
            f"kind: MeshConfig\nextensionProviders: [{provider % port}]\n"
        )
        assert [
            p.envoy_ext_authz_grpc.port
            for p in reading.resources[0].spec.extension_providers
        ] == [9000]
    for port in ("'9e3'", "'x'", "'99999999999'"):
        assert not read_text(
            f"kind: MeshConfig\nextensionProviders: [{provider % port}]\n"
        ).is_valid
    gateway = "{number: '80', name: http, protocol: HTTP}"
    text = f"spec: {{servers: [{{port: {gateway}, hosts: ['*']}}]}}"
    assert not read_text(
        f"apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: a}}\n{text}"
    ).is_valid


def test_mesh_config_at_the_top_or_in_spec() -> None:
    plain = read_text(
        "kind: MeshConfig\naccessLogFile: /dev/stdout\noutboundTrafficPolicy: {mode:"
        " REGISTRY_ONLY}\n"
    )
    nested = read_text(
        "kind: MeshConfig\nspec: {accessLogFile: /dev/stdout, outboundTrafficPolicy: {mode:"
        " REGISTRY_ONLY}}\n"
    )
    assert plain.resources[0].spec == nested.resources[0].spec
    assert plain.resources[0].spec.access_log_file == "/dev/stdout"
    ignored = read_text("kind: MeshConfig\nproxyListenPort: 15001\nproxyListenPrt: 1\n")
    assert [(f.level.value, f.field) for f in ignored.findings] == [
        ("warning", "spec.proxyListenPort"),
        ("error", "spec.proxyListenPrt"),
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/a",
        "/a*",
        "*",
        "/a/{*}/b",
        "/{*}/{**}",
        "/a/{**}/b=c;d",
        "{**}/c",
        "/a//b",
        "/{*}/",
    ],
)
def test_paths_of_policies_that_istio_takes(path: str) -> None:
    assert check_policy_path(path) == ""


@pytest.mark.parametrize(
    "path",
    [
        "/a{b}",
        "/{id}",
        "/{*}/{name}",
        "/a{*}",
        "/{*}b",
        "/{a=*}/{*}",
        "/*/{*}",
        "/**/b/{*}",
        "/a*/{*}",
        "/{**}/a/{*}",
        "/{**}/{**}",
        "/a//{*}",
        "/a b/{*}",
        "/}",
    ],
)
def test_paths_of_policies_that_istio_refuses(path: str) -> None:
    assert check_policy_path(path) != ""


def policy(source: dict[str, Any], **more: Any) -> Reading:
    return read_document(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": "a"},
            "spec": {"rules": [{"from": [{"source": source}], **more}]},
        }
    )


def test_wildcards_stand_where_istio_has_them() -> None:
    for domain in ("a", "a*", "*a", "*", "A.b"):
        assert policy({"trustDomains": [domain]}).is_valid, domain
    for domain in ("a*b", "*a*", "**", "a/b"):
        assert not policy({"notTrustDomains": [domain]}).is_valid, domain

    condition = {"key": "source.trustDomain", "values": ["a*b"]}
    assert not policy({"namespaces": ["a"]}, when=[condition]).is_valid
    assert not policy({"serviceAccounts": ["a*"]}).is_valid
    assert not policy({"serviceAccounts": ["a"] * 17}).is_valid
    assert not policy({"serviceAccounts": ["a" * 321]}).is_valid


@pytest.mark.parametrize(
    ("host", "is_valid"),
    [
        ("~/a.example", True),
        ("~prod/*", True),
        ("~prod/*.example", True),
        ("~./*", True),
        ("~*/a.example", True),
        ("Prod/*", True),
        ("~Prod/*", True),
        ("~/*", True),
        ("~/a", False),
        ("~~/a.example", False),
        ("~prod_eu/*", False),
        ("~prod", False),
    ],
)
def test_hosts_of_a_sidecar(host: str, is_valid: bool) -> None:
    spec = {"egress": [{"hosts": ["*/*", host]}]}
    document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "a"},
        "spec": spec,
    }
    reading = read_document(document)
    assert reading.is_valid is is_valid
    # What is taken out makes nothing superfluous.
    warnings = [f for f in reading.findings if not f.is_error]
    assert bool(warnings) is host.startswith("Prod")
