"""What decides a request, from translated files: by name, conditions, weights, endpoints and the
target's policies.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dockermesh.cli.explain import lines
from dockermesh.cli.main import root
from dockermesh.client.explain_request import agrees, from_files
from dockermesh.client.inspect.authorization import Caller, decide
from dockermesh.client.inspect.dump import read_dump
from dockermesh.client.inspect.explain import (
    Source,
    Surroundings,
    explain,
    parse_request,
)
from dockermesh.client.inspect.matching import (
    Request,
    header_matches,
    route_matches,
    text_matches,
)
from dockermesh.client.inspect.routing import Connection, filter_chain, find_route
from dockermesh.config.documents import read_text
from dockermesh.errors import DockermeshError, InputError
from dockermesh.model import EMPTY_CATALOG, WorkloadKind
from dockermesh.translate.mesh.settings import istio_config
from dockermesh.translate.mesh.state import Proxy, build_mesh
from dockermesh.translate.translator import Translator
from dockermesh.xds.config_dump import config_dump

CATALOG = """\
services:
- name: web
  ports: [{port: 80, protocol: http}]
  endpoints: [{address: 10.0.0.1, port: 8080, workload: shop/web-1}]
- name: reviews
  ports: [{port: 9080, protocol: http}]
  endpoints:
  - {address: 10.0.0.2, port: 9080, workload: shop/reviews-v1-1, labels: {version: v1}}
  - {address: 10.0.0.3, port: 9080, workload: shop/reviews-v2-1, labels: {version: v2}}
- name: db
  ports: [{port: 5432, protocol: tcp}]
  endpoints: [{address: 10.0.0.4, port: 5432, workload: shop/db-1}]
"""
RULES = """\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v9, labels: {version: v9}}
---
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata: {name: reviews}
spec:
  hosts: [reviews]
  http:
  - match:
    - headers: {end-user: {exact: jason}}
    - uri: {prefix: /new}
      queryParams: {beta: {exact: "1"}}
    fault:
      delay: {percentage: {value: 12.5}, fixedDelay: 7s}
      abort: {percentage: {value: 1}, httpStatus: 503}
    route: [{destination: {host: reviews, subset: v2}}]
  - match: [{uri: {exact: /gone}}]
    directResponse: {status: 410}
  - match: [{uri: {regex: "/old/[0-9]+"}}]
    redirect: {uri: /new}
  - match: [{uri: {prefix: /empty}}]
    route: [{destination: {host: reviews, subset: v9}}]
  - match: [{uri: {prefix: /missing}}]
    route: [{destination: {host: reviews, subset: none}}]
  - match: [{uri: {prefix: /public/}}]
    rewrite: {uri: /admin/, authority: inner.example}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{uri: {prefix: /item/}}]
    rewrite: {uriRegexRewrite: {match: "^/item/([0-9]+)", rewrite: '/items?id=\\1'}}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{uri: {prefix: /broken}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: reviews, subset: v1}}]
  - match: [{uri: {prefix: /moved}}]
    redirect: {authority: new.example, scheme: https, redirectCode: 308}
  - timeout: 3s
    retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}
    mirror: {host: reviews, subset: v2}
    mirrorPercentage: {value: 20}
    route:
    - {destination: {host: reviews, subset: v1}, weight: 75}
    - {destination: {host: reviews, subset: v2}, weight: 25}
"""
POLICY = """\
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec:
  action: DENY
  rules: [{to: [{operation: {paths: ["/admin*"], methods: [POST]}}]}]
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    (tmp_path / "rules.yaml").write_text(RULES)
    return tmp_path


def explained(
    files: Path, url: str, method: str = "GET", **headers: str
) -> dict[str, Any]:
    source, known, problems = from_files(
        "web", [files / "rules.yaml"], files / "catalog.yaml"
    )
    assert not problems
    request, host, port = parse_request(
        url, method, {k.replace("_", "-"): v for k, v in headers.items()}
    )
    return explain(source, request, host, port, known)


def test_the_first_rule_whose_conditions_hold_decides_and_is_named_with_its_line(
    files: Path,
) -> None:
    found = explained(files, "http://reviews:9080/reviews/0?x=1", end_user="jason")
    rule = found["rule"]
    assert (rule["resource"], rule["path"]) == (
        "VirtualService default/reviews",
        "spec.http[0].match[0]",
    )
    assert rule["at"] == f"{files / 'rules.yaml'}:18"
    assert found["delay"] == {"percent": 12.5, "seconds": "7s"} and found["abort"] == {
        "percent": 1,
        "status": 503,
    }
    (target,) = found["destinations"]
    assert (target["host"], target["subset"], target["percent"]) == (
        "reviews.service.consul",
        "v2",
        100,
    )
    assert target["destination_rule"] == "reviews.default"
    assert [(e["address"], e["workload"]) for e in target["endpoints"]] == [
        ("10.0.0.3:9080", "shop/reviews-v2-1")
    ]
    assert (
        explained(files, "http://reviews:9080/new?beta=1")["rule"]["path"]
        == "spec.http[0].match[1]"
    )
    assert (
        explained(files, "http://reviews:9080/new?beta=2")["rule"]["path"]
        == "spec.http[9]"
    )


@pytest.mark.parametrize("host", ["shop.example", "10.1.2.3", "localhost:30080"])
def test_a_host_that_names_nobody_meets_the_rules_of_the_service_that_was_dialled(
    files: Path, host: str
) -> None:
    gone = explained(files, "http://reviews:9080/gone", host=host)
    assert gone["status"] == 410
    assert gone["virtual_host"]["name"] == "reviews.service.consul:9080"
    elsewhere = explained(files, "http://192.0.2.1:9080/gone", host=host)
    assert elsewhere["destinations"][0]["cluster"] == "PassthroughCluster"


def test_weights_timeout_retries_and_mirror_of_the_last_rule(files: Path) -> None:
    found = explained(files, "http://reviews.default.svc.cluster.local:9080/")
    assert found["virtual_host"]["domain"] == "reviews.default.svc.cluster.local"
    assert [(t["subset"], t["percent"]) for t in found["destinations"]] == [
        ("v1", 75),
        ("v2", 25),
    ]
    assert found["timeout"] == "3s"
    assert (found["retries"]["attempts"], found["retries"]["per_try_timeout"]) == (
        2,
        "1s",
    )
    assert [(m["cluster"].split("|")[2], m["percent"]) for m in found["mirrors"]] == [
        ("v2", 20)
    ]
    reasons = [passed["reason"] for passed in found["passed_over"]]
    assert (
        reasons[0] == "header end-user is not 'jason'"
        and "the path is not /gone" in reasons
    )


@pytest.mark.parametrize(
    ("url", "outcome", "status"),
    [
        ("http://reviews:9080/gone", "410: answered by the proxy", 410),
        (
            "http://reviews:9080/old/12",
            "301: redirected to http://reviews:9080/new",
            301,
        ),
        (
            "http://reviews:9080/moved/a?b=c",
            "308: redirected to https://new.example/moved/a?b=c",
            308,
        ),
        ("http://reviews:9080/broken", "418: aborted", 418),
        ("http://db:9080/", "503: passed through to 240.240.", 503),
        ("http://reviews:9999/", "at this port, which it does not declare", None),
        ("http://reviews:9080/empty", "has no endpoints", None),
        (
            "http://reviews:9080/missing",
            "there is no cluster outbound|9080|none|",
            None,
        ),
        ("http://elsewhere:9080/", "passed through", None),
        ("http://10.9.9.9:1234/", "passed through", None),
    ],
)
def test_what_does_not_reach_an_app_is_said(
    files: Path, url: str, outcome: str, status: int | None
) -> None:
    found = explained(files, url)
    assert outcome in found["outcome"]
    assert found.get("status") == status


def test_a_tcp_service_is_reached_by_its_virtual_ip(files: Path) -> None:
    found = explained(files, "http://db:5432/")
    assert found["protocol"] == "TCP"
    assert [e["workload"] for e in found["destinations"][0]["endpoints"]] == [
        "shop/db-1"
    ]


def test_the_targets_policies_are_asked(files: Path) -> None:
    with (files / "rules.yaml").open("a") as rules:
        rules.write("---\n" + POLICY)
    refused = explained(files, "http://reviews:9080/admin/x", "POST")["destinations"][
        0
    ]["endpoints"][0]
    assert refused["accepts"] is False and "no-admin" in refused["reason"]
    assert explained(files, "http://reviews:9080/admin/x")["destinations"][0][
        "endpoints"
    ][0]["accepts"]


LIMITS = """\
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: few}
spec: {targetRefs: [{kind: Service, name: reviews}], limits: [{name: all, requests: 5}]}
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: trial}
spec: {shadow: true, limits: [{name: all, requests: 1}]}
"""


def test_the_targets_limits_are_named(files: Path) -> None:
    with (files / "rules.yaml").open("a") as rules:
        rules.write("---\n" + LIMITS)
    found = explained(files, "http://reviews:9080/")
    endpoint = found["destinations"][0]["endpoints"][0]
    assert endpoint["limits"] == ["default/few/all", "default/trial/all (shadow)"]
    assert any("limited by default/few/all, " in text for _, text in lines(found))


def test_a_target_that_wants_mutual_tls_refuses_a_plain_client(files: Path) -> None:
    with (files / "rules.yaml").open("a") as rules:
        rules.write(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name:"
            " plain}\n"
        )
        rules.write("spec: {host: web, trafficPolicy: {tls: {mode: DISABLE}}}\n")
        rules.write(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name:"
            " default}\n"
        )
        rules.write("spec: {mtls: {mode: STRICT}}\n")
    (endpoint,) = explained(files, "http://web/")["destinations"][0]["endpoints"]
    assert (endpoint["tls"], endpoint["accepts"]) == ("DISABLE", False)


def test_a_client_expects_the_identity_that_its_rule_names(files: Path) -> None:
    with (files / "rules.yaml").open("a") as rules:
        rules.write(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name:"
            " other}\n"
        )
        rules.write("spec:\n  host: web\n")
        rules.write(
            "  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames:"
            " [spiffe://elsewhere/ns/a/sa/b]}}\n"
        )
    (endpoint,) = explained(files, "http://web/")["destinations"][0]["endpoints"]
    assert (endpoint["tls"], endpoint["accepts"]) == ("ISTIO_MUTUAL", False)
    assert (
        "another identity than spiffe://cluster.local/ns/default/sa/web"
        in endpoint["reason"]
    )


@pytest.mark.parametrize(
    "url", ["", "http://", "reviews:port", "ftp://reviews/", "http://[::1"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="no URL"):
        parse_request(url)


# the parts
# --------------------------------------------------------------------------------------------------


def request(path: str = "/", authority: str = "a.example", **headers: str) -> Request:
    return Request(
        "GET",
        "http",
        authority,
        path,
        {k.replace("_", "-"): v for k, v in headers.items()},
    )


@pytest.mark.parametrize(
    ("matcher", "given", "answer"),
    [
        ({"exact": "a"}, "a", True),
        ({"exact": "A", "ignore_case": True}, "a", True),
        ({"prefix": "ab"}, "abc", True),
        ({"suffix": "bc"}, "abc", True),
        ({"contains": "x"}, "abc", False),
        ({"safe_regex": {"regex": "a.*"}}, "abc", True),
        ({"safe_regex": {"regex": "b"}}, "abc", False),
        ({"safe_regex": {"regex": r"\p{Greek}"}}, "a", False),
        ({"safe_regex": {"regex": "(?=a)"}}, "a", None),
        ({}, "", True),
        ({"custom": {}}, "a", None),
    ],
)
def test_texts_are_compared_as_envoy_does(
    matcher: dict[str, Any], given: str, answer: bool | None
) -> None:
    assert text_matches(matcher, given) is answer


@pytest.mark.parametrize(
    ("matcher", "value", "answer"),
    [
        ({"present_match": True}, None, False),
        ({"present_match": True, "invert_match": True}, None, True),
        ({"string_match": {"exact": "a"}, "invert_match": True}, None, False),
        (
            {
                "string_match": {"exact": "a"},
                "invert_match": True,
                "treat_missing_header_as_empty": True,
            },
            None,
            True,
        ),
        ({"string_match": {"exact": "a"}, "invert_match": True}, "b", True),
        ({"range_match": {"start": 1, "end": 10}}, "10", False),
        ({"range_match": {"start": 1, "end": 10}}, "9", True),
    ],
)
def test_a_missing_header_is_told_from_an_empty_one(
    matcher: dict[str, Any], value: str | None, answer: bool
) -> None:
    given = request(x=value) if value is not None else request()
    assert header_matches(matcher | {"name": "X"}, given) is answer


def test_what_cannot_be_known_is_neither_taken_nor_surely_not() -> None:
    verdict = route_matches({"prefix": "/", "dynamic_metadata": [{}]}, request())
    assert verdict.answer is None and "dynamic_metadata" in verdict.reason
    assert (
        route_matches({"prefix": "/x", "dynamic_metadata": [{}]}, request()).answer
        is False
    )


@pytest.mark.parametrize(
    ("authority", "domain"),
    [
        ("a.example", "a.example"),
        ("A.EXAMPLE:8080", "a.example"),
        ("b.x.example", "*.x.example"),
        ("c.example", "*.example"),
        ("a.other", "a.*"),
        ("[::1]:80", "[::1]"),
        ("none", "*"),
    ],
)
def test_the_most_specific_name_has_a_host(authority: str, domain: str) -> None:
    names = ["*", "*.example", "*.x.example", "a.*", "a.example", "[::1]"]
    hosts = [
        {"name": n, "domains": [n], "routes": [{"match": {"prefix": "/"}}]}
        for n in names
    ]
    table = {"virtual_hosts": hosts, "ignore_port_in_host_matching": True}
    assert find_route(table, request(authority=authority)).domain == domain


def test_the_most_specific_chain_takes_a_connection() -> None:
    matches = {
        "any": {},
        "port": {"destination_port": 443},
        "sni": {"server_names": ["a.example"]},
        "wild": {"server_names": ["*.example"]},
        "net": {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "host": {"prefix_ranges": [{"address_prefix": "10.0.0.1", "prefix_len": 32}]},
        "tls": {"transport_protocol": "tls"},
    }
    chains = [
        {"name": name, "filter_chain_match": match} for name, match in matches.items()
    ]

    def taken(connection: Connection, *names: str) -> str:
        listed = [chain for chain in chains if chain["name"] in names]
        chain = filter_chain(
            {"filter_chains": listed, "default_filter_chain": {"name": "default"}},
            connection,
        )
        return str(chain["name"]) if chain is not None else ""

    tls = Connection("10.0.0.1", 443, "a.example", is_tls=True)
    assert taken(tls, *matches) == "port"
    assert taken(tls, "any", "sni", "wild", "net", "host", "tls") == "host"
    assert taken(tls, "any", "sni", "wild", "tls") == "sni"
    assert taken(Connection("10.0.0.1", 80), "sni", "wild", "tls", "port") == "default"


RBAC = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"


def rbac(
    action: str, **policies: tuple[dict[str, Any], dict[str, Any]]
) -> dict[str, Any]:
    made = {
        name: {"permissions": [p], "principals": [who]}
        for name, (p, who) in policies.items()
    }
    return {"@type": RBAC, "rules": {"action": action, "policies": made}}


def test_policies_decide_in_order_and_what_is_not_known_is_said() -> None:
    anyone, admin = {"any": True}, {"url_path": {"path": {"prefix": "/admin"}}}
    friend = {"authenticated": {"principal_name": {"exact": "spiffe://m/ns/a/sa/b"}}}
    claim = {"metadata": {"filter": "jwt"}}
    deny, allow = rbac("DENY", no=(admin, anyone)), rbac("ALLOW", yes=(anyone, friend))
    caller = Caller("spiffe://m/ns/a/sa/b")
    assert decide([deny, allow], request("/"), caller).allowed is True
    assert decide([deny, allow], request("/admin"), caller).by == "no"
    assert decide([deny, allow], request("/"), Caller()).allowed is False
    assert (
        decide([rbac("ALLOW", maybe=(anyone, claim))], request("/"), caller).allowed
        is None
    )
    assert (
        decide([rbac("DENY", maybe=(anyone, claim)), allow], request("/"), caller).by
        == "maybe"
    )
    negated = rbac(
        "DENY",
        other=(
            {
                "not_rule": {
                    "header": {"name": ":method", "string_match": {"exact": "GET"}}
                }
            },
            anyone,
        ),
    )
    assert decide([negated], request("/"), caller).allowed is True


def test_what_decided_the_protocol_is_said(files: Path) -> None:
    source, known, _ = from_files("web", [files / "rules.yaml"], files / "catalog.yaml")
    known = replace(known, protocol_rules={"shop/db-1": {"5432": "well-known port"}})
    asked = parse_request("http://db:5432/")
    result = explain(source, *asked, known)
    assert dict(lines(result))["Protocol"] == "TCP (well-known port)"


def test_the_command_prints_it_for_people_and_for_scripts(files: Path) -> None:
    options = [
        "--config",
        str(files / "rules.yaml"),
        "--catalog",
        str(files / "catalog.yaml"),
    ]
    told = CliRunner().invoke(
        root, ["explain", "web", "http://reviews:9080/new?beta=1", *options]
    )
    assert told.exit_code == 0, told.output
    labels = dict(
        line.split(None, 1)
        for line in told.stdout.splitlines()
        if not line.startswith(" ")
    )
    assert (
        labels["Rule"]
        == f"VirtualService default/reviews spec.http[0].match[1] ({files / 'rules.yaml'}:19):"
        " /new*"
    )
    assert (labels["Delay"], labels["Abort"]) == ("7s for 12.5 %", "503 for 1 %")
    assert labels["To"].startswith(
        "100 % reviews.service.consul:9080 subset v2, LEAST_REQUEST, TLS "
    )
    assert "10.0.0.3:9080  HEALTHY  shop/reviews-v2-1" in told.stdout
    same = CliRunner().invoke(
        root,
        ["explain", "web", "http://reviews:9080/new?beta=1", "-o", "json", *options],
    )
    assert json.loads(same.stdout)["rule"]["path"] == "spec.http[0].match[1]"


def test_services_are_called_by_the_domain_of_the_users_consul(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKERMESH_CONSUL_DOMAIN", "acme")
    told = CliRunner().invoke(
        root,
        [
            *("explain", "web", "http://reviews.service.acme:9080/", "-o", "json"),
            *("--catalog", str(files / "catalog.yaml")),
        ],
    )
    [target] = json.loads(told.stdout)["destinations"]
    assert target["host"] == "reviews.service.acme"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["web", "http://reviews/", "-H", "no-colon"], "is no header"),
        (["web", "https://reviews/", "--live"], "only http://"),
        (["web", "http://reviews/", "--live", "--config", "x"], "cannot be asked live"),
        (
            [
                "nobody",
                "http://reviews/",
                "--config",
                "{}/rules.yaml",
                "--catalog",
                "{}/catalog.yaml",
            ],
            "is called 'nobody'",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(
    files: Path, arguments: list[str], reason: str
) -> None:
    done = CliRunner().invoke(
        root, ["explain", *(a.replace("{}", str(files)) for a in arguments)]
    )
    assert isinstance(done.exception, DockermeshError) and reason in str(done.exception)


@pytest.mark.parametrize(
    ("explanation", "status", "is_seen", "agreed"),
    [
        ({"status": 418}, 418, False, True),
        ({"status": 418}, 200, True, False),
        ({"abort": {"percent": 100, "status": 500}}, 500, False, True),
        ({"abort": {"percent": 100, "status": 500}}, 200, True, False),
        (
            {"abort": {"percent": 10, "status": 500}, "destinations": []},
            500,
            False,
            True,
        ),
        (
            {"destinations": [{"cluster": "a", "endpoints": [{"accepts": False}]}]},
            403,
            True,
            True,
        ),
        (
            {"destinations": [{"cluster": "a", "endpoints": [{"accepts": False}]}]},
            200,
            True,
            False,
        ),
        (
            {"destinations": [{"cluster": "a", "endpoints": [{"accepts": True}]}]},
            200,
            True,
            True,
        ),
        (
            {"destinations": [{"cluster": "a", "endpoints": [{"accepts": True}]}]},
            404,
            False,
            False,
        ),
        ({"destinations": [{"cluster": "a", "endpoints": []}]}, 503, False, True),
        (
            {"destinations": [{"cluster": "PassthroughCluster", "endpoints": []}]},
            200,
            False,
            True,
        ),
    ],
)
def test_what_happens_is_compared_with_what_was_explained(
    explanation: dict[str, Any], status: int, is_seen: bool, agreed: bool
) -> None:
    assert agrees(explanation, status, is_seen=is_seen) is agreed


def test_what_a_rewrite_makes_of_a_request_is_what_the_target_judges(
    files: Path,
) -> None:
    found = explained(files, "http://reviews:9080/public/x?a=b")
    assert found["forwarded_as"] == {
        "authority": "inner.example",
        "path": "/admin/x?a=b",
    }
    found = explained(files, "http://reviews:9080/item/12/y")
    assert found["forwarded_as"]["path"] == "/items?id=12/y"
    assert "forwarded_as" not in explained(files, "http://reviews:9080/")

    (files / "rules.yaml").write_text(f"{RULES}---\n{POLICY}")
    found = explained(files, "http://reviews:9080/public/x", "POST")
    assert [e["accepts"] for t in found["destinations"] for e in t["endpoints"]] == [
        False
    ]


EDGE = """\
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: [shop.example]
    tls: {httpsRedirect: true}
  - port: {number: 8080, name: plain, protocol: HTTP}
    hosts: [shop.example]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge}
spec:
  hosts: [shop.example]
  gateways: [edge]
  http: [{route: [{destination: {host: reviews}}]}]
"""


def test_a_gateways_redirect_to_https_comes_before_any_route() -> None:
    translator = Translator()
    translator.update(
        build_mesh(EMPTY_CATALOG, config=istio_config(read_text(EDGE).resources))
    )
    proxy = Proxy(
        "gw", WorkloadKind.GATEWAY, labels={"istio": "ingressgateway"}, namespace="x"
    )
    made = json.dumps(config_dump(translator.snapshot(proxy))).encode()
    source = Source("gw", read_dump(made, "gw"), is_gateway=True)

    def at(port: int, **headers: str) -> dict[str, Any]:
        request, host, _ = parse_request(
            f"http://localhost:{port}/a?b=c",
            "GET",
            {"Host": "shop.example:80", **headers},
        )
        return explain(source, request, host, port, Surroundings())

    found = at(80)
    assert (found["status"], found["location"]) == (301, "https://shop.example/a?b=c")
    assert "destinations" not in found
    # What a client says of itself changes nothing.
    assert at(80, **{"X-Forwarded-Proto": "https"})["status"] == 301
    assert "status" not in at(8080)
