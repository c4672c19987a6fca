"""Our verdict about a user's pattern is Envoy's, wherever the pattern stands.

For a campaign: REGEX_SEED=100 REGEX_PATTERNS=20000.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from envoy_verdicts import RUNTIME, bootstrap, certificate, refusal
from mangling import accepted, told

from dockermesh.config.resource import Resource
from dockermesh.config.rules.path_template import check_template
from dockermesh.config.rules.regex import check_program, check_regex

pytestmark = pytest.mark.binary
PATTERNS = 1000
ALONE = 60
"""How many of those that we refuse Envoy is asked about, one start for each."""
HTTP = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
TOKENS = (
    *(
        "a",
        "b",
        "Z",
        "0",
        "/",
        "-",
        " ",
        ".",
        "é",
        "\u4e16",
        "\U0001f600",
        "_",
        ",",
        ":",
        "=",
        "!",
    ),
    *(
        "*",
        "+",
        "?",
        "|",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "^",
        "$",
        "\\",
        "&&",
        "[^",
        "]]",
        "a-z",
        "z-a",
    ),
    *(
        "(?",
        "(?:",
        "(?i)",
        "(?i-s:",
        "(?U)",
        "(?x)",
        "(?=",
        "(?!",
        "(?<=",
        "(?<!",
        "(?>",
        "(?#c)",
    ),
    *(
        "(?P<n>",
        "(?<n>",
        "(?P<é>",
        "(?P<n",
        "(?P=n)",
        "(?'n'a)",
        "(?|",
        "(?m)",
        "(?-",
        "(*UCP)",
    ),
    *(
        "\\d",
        "\\w",
        "\\S",
        "\\b",
        "\\B",
        "\\A",
        "\\z",
        "\\Z",
        "\\C",
        "\\G",
        "\\K",
        "\\R",
        "\\X",
        "\\h",
    ),
    *(
        "\\1",
        "\\0",
        "\\07",
        "\\123",
        "\\x41",
        "\\x{10FFFF}",
        "\\x{110000}",
        "\\x{}",
        "\\u0041",
        "\\cA",
    ),
    *(
        "\\p{Greek}",
        "\\p{Foo}",
        "\\pL",
        "\\PN",
        "\\p{^Lu}",
        "\\p{Any}",
        "\\p{L",
        "\\p",
        "\\N{x}",
        "\\p{IsLatin}",
    ),
    *(
        "\\Q",
        "\\E",
        "\\Qa*\\E",
        "\\-",
        "\\_",
        "\\é",
        "\\/",
        "\\n",
        "\\v",
        "\\e",
        "\\<",
        "\\k<n>",
        "\\g1",
    ),
    *(
        "[[:alpha:]]",
        "[[:^word:]]",
        "[[:nope:]]",
        "[:alpha:]",
        "[\\d-z]",
        "[a-\\d]",
        "[]a]",
        "[^]]",
        "[é-a]",
    ),
    *(
        "{2}",
        "{2,}",
        "{,3}",
        "{2,1}",
        "{1000}",
        "{1001}",
        "{100}",
        "{0}",
        "{a}",
        "*?",
        "+?",
        "??",
        "++",
    ),
)
HOSTILE = (
    *(
        "/\\p{Foo}+",
        "(?=a)",
        "(a)\\1",
        "a**",
        "a{1001}",
        "(a{100}){100}",
        "[z-a]",
        "(?P<é>a)",
        "(",
    ),
    *(
        "\\pL{1000}" * 5,
        "a{1000}" * 40,
        "é",
        "(?P<n>a)(?P<n>b)",
        "\\pL{1000}",
        "a" * 500,
        "\\C",
        "*",
    ),
    *(
        ".*",
        "\\x{110000}",
        "\\Z",
        "a|",
        "(?i)straße",
        "%",
        "'\"",
        "a\tb",
        "/**/*/{a}",
        "{*}",
        "/{**}/a{*}",
    ),
    *(
        "a" * 300 + "{*}",
        "/" + "a" * 40000 + "{*}/*",
        "*" + "a" * 40000,
        "\\Q(",
        "[[:alpha:]]{1000}" * 20,
    ),
)


def random_pattern(chance: random.Random) -> str:
    return "".join(chance.choice(TOKENS) for _ in range(chance.randint(1, 7)))


def routes_with(patterns: list[str]) -> dict[str, Any]:
    """A bootstrap whose routes match by these patterns."""
    routes = [
        {
            "match": {"safe_regex": {"regex": pattern}},
            "direct_response": {"status": 200},
        }
        for pattern in patterns
    ]
    host = {"name": "any", "domains": ["*"], "routes": routes}
    manager = {
        "@type": f"{HTTP}.HttpConnectionManager",
        "stat_prefix": "any",
        "route_config": {"virtual_hosts": [host]},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }
    listener = {
        "name": "any",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener]}, "layered_runtime": RUNTIME}


def test_the_verdict_about_a_random_pattern_is_envoys(tmp_path: Path) -> None:
    chance = random.Random(int(os.environ.get("REGEX_SEED", "1")))
    patterns = [
        random_pattern(chance)
        for _ in range(int(os.environ.get("REGEX_PATTERNS", PATTERNS)))
    ]
    taken = [pattern for pattern in patterns if not check_regex(pattern)]
    refused = [pattern for pattern in patterns if check_regex(pattern)]
    assert len(taken) > PATTERNS // 10 and len(refused) > PATTERNS // 10

    assert not refusal(routes_with(taken), tmp_path / "taken.json")
    for pattern in chance.sample(refused, ALONE):
        said = refusal(routes_with([pattern]), tmp_path / "refused.json")
        assert said, f"Envoy takes {pattern!r}; we say {check_regex(pattern)}"


@pytest.mark.parametrize("pattern", HOSTILE)
def test_the_verdict_about_a_hostile_pattern_is_envoys(
    pattern: str, tmp_path: Path
) -> None:
    said = refusal(routes_with([pattern]), tmp_path / "one.json")
    assert bool(check_program(pattern)) == bool(said), (check_program(pattern), said)


def virtual_services(name: str, pattern: str) -> Iterator[dict[str, Any]]:
    """VirtualServices that have a pattern in each of the places where one may stand."""
    wanted = {"regex": pattern}
    places: dict[str, dict[str, Any]] = {
        "uri": {"match": [{"uri": wanted}]},
        "scheme": {"match": [{"scheme": wanted}]},
        "method": {"match": [{"method": wanted}]},
        "authority": {"match": [{"authority": wanted}]},
        "headers": {"match": [{"headers": {"x-a": wanted}}]},
        "without": {"match": [{"withoutHeaders": {"x-a": wanted}}]},
        "claims": {"match": [{"headers": {"@request.auth.claims.sub": wanted}}]},
        "query": {"match": [{"queryParams": {"a": wanted}}]},
        "cors": {"corsPolicy": {"allowOrigins": [wanted]}},
        "rewrite": {"rewrite": {"uriRegexRewrite": {"match": pattern, "rewrite": "/"}}},
    }
    for place, fields in places.items():
        host = f"{place}-{name}.example"
        is_claim = place == "claims"
        yield {
            "apiVersion": "networking.istio.io/v1",
            "kind": "VirtualService",
            "metadata": {"name": f"{place}-{name}"},
            "spec": {
                "hosts": [host],
                "gateways": ["edge"] if is_claim else ["edge", "mesh"],
                "http": [{**fields, "route": [{"destination": {"host": "reviews"}}]}],
            },
        }


def policies(name: str, pattern: str) -> Iterator[dict[str, Any]]:
    """AuthorizationPolicies whose values become part of an expression or of a path template."""
    source = {"source": {"principals": [f"*{pattern}"], "namespaces": [pattern]}}
    rules: dict[str, dict[str, Any]] = {
        "path": {"to": [{"operation": {"paths": [pattern]}}]},
        "template": {"to": [{"operation": {"paths": [f"/{{*}}/{pattern}"]}}]},
        "from": {"from": [source]},
        "account": {"from": [{"source": {"serviceAccounts": [pattern]}}]},
        "inline": {
            "when": [
                {
                    "key": "request.experimental.inline.headers[x-a]",
                    "values": [f"*{pattern}"],
                }
            ]
        },
        "claim": {"when": [{"key": "request.auth.claims[a]", "values": [pattern]}]},
    }
    for place, rule in rules.items():
        yield {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": f"{place}-{name}"},
            "spec": {"rules": [rule]},
        }


def envoy_filters(name: str, pattern: str) -> Iterator[dict[str, Any]]:
    """EnvoyFilters that bring a pattern in their own words, whole or to be merged."""
    expression = {"regex": pattern}
    metadata = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [
            {
                "header": "x-a",
                "on_header_present": {
                    "key": "a",
                    "regex_value_rewrite": {"pattern": expression, "substitution": "b"},
                },
            }
        ],
    }
    rule = {
        "permissions": [
            {"uri_template": {"name": "t", "typed_config": _template(pattern)}}
        ],
        "principals": [{"any": True}],
    }
    rbac = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"policies": {"any": rule}},
    }
    before_router = {
        "context": "ANY",
        "listener": {
            "filterChain": {
                "filter": {
                    "name": "envoy.filters.network.http_connection_manager",
                    "subFilter": {"name": "envoy.filters.http.router"},
                }
            }
        },
    }
    patches: dict[str, dict[str, Any]] = {
        "filter": {
            "applyTo": "HTTP_FILTER",
            "match": before_router,
            "patch": _patch(
                "INSERT_BEFORE", {"name": f"f-{name}", "typed_config": metadata}
            ),
        },
        "rbac": {
            "applyTo": "HTTP_FILTER",
            "match": before_router,
            "patch": _patch(
                "INSERT_BEFORE", {"name": f"r-{name}", "typed_config": rbac}
            ),
        },
        "route": {
            "applyTo": "HTTP_ROUTE",
            "patch": _patch("MERGE", {"match": {"headers": [_header(expression)]}}),
        },
        "host": {
            "applyTo": "VIRTUAL_HOST",
            "patch": _patch(
                "MERGE",
                {"retry_policy": {"retriable_request_headers": [_header(expression)]}},
            ),
        },
    }
    for place, patch in patches.items():
        yield {
            "apiVersion": "networking.istio.io/v1alpha3",
            "kind": "EnvoyFilter",
            "metadata": {"name": f"{place}-{name}"},
            "spec": {"configPatches": [patch]},
        }


def _template(text: str) -> dict[str, str]:
    kind = "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig"
    return {"@type": f"type.googleapis.com/{kind}", "path_template": text}


def _patch(operation: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"operation": operation, "value": value}


def _header(expression: dict[str, str]) -> dict[str, Any]:
    return {"name": "x-b", "string_match": {"safe_regex": expression}}


EDGE: dict[str, Any] = {
    "apiVersion": "networking.istio.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "edge"},
    "spec": {
        "selector": {"istio": "ingressgateway"},
        "servers": [
            {
                "port": {"number": 8080, "name": "http", "protocol": "HTTP"},
                "hosts": ["*"],
            }
        ],
    },
}


@pytest.mark.parametrize("made", [virtual_services, policies, envoy_filters])
def test_what_is_accepted_with_a_hostile_pattern_becomes_what_envoy_takes(
    made: Any, tmp_path: Path
) -> None:
    pair = certificate()
    resources: list[Resource[Any]] = [*accepted(EDGE)]
    for number, pattern in enumerate(HOSTILE):
        for document in made(f"p{number}", pattern):
            resources.extend(accepted(document))

    for number, snapshot in enumerate(told(resources)):
        refused = refusal(bootstrap(snapshot, pair), tmp_path / f"{number}.json")
        assert not refused, refused[-2000:]


def random_template(chance: random.Random) -> str:
    parts = (
        "*",
        "**",
        "a",
        "b.js",
        "{x}",
        "{y=*}",
        "{x=a/*}",
        "{z=**}",
        "é",
        "a?b",
        "{1}",
        "",
    )
    made = "/" + "/".join(chance.choice(parts) for _ in range(chance.randint(0, 5)))
    return made + chance.choice(("", "", "/", ".js"))


def test_a_path_template_that_passes_is_taken_by_envoy_in_routes_and_in_policies(
    tmp_path: Path,
) -> None:
    chance = random.Random(int(os.environ.get("REGEX_SEED", "1")))
    made = {random_template(chance) for _ in range(PATTERNS)}
    taken = sorted(template for template in made if not check_template(template))
    assert len(taken) > len(made) // 20

    configuration = routes_with(["any"])
    (listener,) = configuration["static_resources"]["listeners"]
    (network,) = listener["filter_chains"][0]["filters"]
    manager = network["typed_config"]
    permissions = [
        {"uri_template": {"name": "t", "typed_config": _template(template)}}
        for template in taken
    ]
    rule = {"permissions": permissions, "principals": [{"any": True}]}
    filter_ = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
        "rules": {"policies": {"any": rule}},
    }
    manager["http_filters"].insert(0, {"name": "rbac", "typed_config": filter_})
    assert not refusal(configuration, tmp_path / "templates.json")
