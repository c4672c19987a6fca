"""A policy that today's rules refuse never lets more through than it did."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.config.api.authorization_policy import Action, Rule
from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.config.closing import closed
from dockermesh.config.kinds import kind_named

SELECTOR = {"selector": {"matchLabels": {"app": "vault"}}}
GOOD = {"to": [{"operation": {"paths": ["/secret"]}}]}
BAD = {"to": [{"operation": {"paths": ["/{unclosed"]}}]}
UNKNOWN = {"to": [{"operation": {"ofAnotherVersion": ["x"]}}]}


def in_place_of(kind: str, spec: Any, **metadata: Any) -> Any:
    found = kind_named(kind)
    assert found is not None
    document = {
        "apiVersion": found.api_version,
        "kind": kind,
        "metadata": {"name": "it", "namespace": "shop", **metadata},
        "spec": spec,
    }
    return closed(kind, "shop", "it", document)


@pytest.mark.parametrize("bad", [BAD, UNKNOWN, 3, {"from": []}])
def test_a_deny_rule_that_cannot_be_read_denies_all(bad: Any) -> None:
    spec = in_place_of(
        "AuthorizationPolicy", {**SELECTOR, "action": "DENY", "rules": [GOOD, bad]}
    ).spec
    assert spec.selector.match_labels == {"app": "vault"}
    assert spec.action is Action.DENY
    assert spec.rules[0].to[0].operation.paths == ("/secret",)
    assert spec.rules[1:] == (Rule(),)


@pytest.mark.parametrize("bad", [BAD, UNKNOWN, 3, {"from": []}])
def test_an_allow_rule_that_cannot_be_read_allows_nothing(bad: Any) -> None:
    made = in_place_of("AuthorizationPolicy", {**SELECTOR, "rules": [bad, GOOD]})
    [rule] = made.spec.rules
    assert made.spec.action is Action.ALLOW
    assert rule.to[0].operation.paths == ("/secret",)
    # An ALLOW without rules allows nobody anything.
    alone = in_place_of("AuthorizationPolicy", {**SELECTOR, "rules": [bad]})
    assert alone.spec.action is Action.ALLOW and alone.spec.rules == ()


@pytest.mark.parametrize(
    ("wrong", "is_selected"),
    [
        ({"rules": "all"}, True),
        ({"action": "NEWER", "rules": [GOOD]}, True),
        ({"action": "CUSTOM", "rules": [GOOD]}, True),
        ({"ofAnotherVersion": 1, "rules": [GOOD]}, True),
        ({"selector": {"matchLabels": {"app": "v*"}}, "rules": [GOOD]}, False),
        ({"selector": 1, "rules": [GOOD]}, False),
        ({"targetRef": {"kind": "Newer", "name": "x"}, "selector": None}, False),
    ],
)
def test_a_policy_that_cannot_be_read_denies_all_to_what_it_may_have_selected(
    wrong: dict[str, Any], is_selected: bool
) -> None:
    made = in_place_of("AuthorizationPolicy", {**SELECTOR, **wrong})
    assert (made.namespace, made.name) == ("shop", "it")
    assert made.spec.action is Action.DENY and made.spec.rules == (Rule(),)
    assert (made.spec.selector is not None) is is_selected
    assert made.spec.target_ref is None


@pytest.mark.parametrize(
    ("spec", "annotations"),
    [
        ({"action": "AUDIT", "rules": [BAD]}, {}),
        ({"action": "DENY", "rules": [BAD]}, {"istio.io/dry-run": "true"}),
        ({"action": "DENY"}, {}),
    ],
)
def test_what_kept_nobody_out_needs_nothing_in_its_place(
    spec: dict[str, Any], annotations: dict[str, str]
) -> None:
    assert in_place_of("AuthorizationPolicy", spec, annotations=annotations) is None


def test_a_peer_authentication_that_cannot_be_read_is_strict_and_counts_first() -> None:
    spec = {**SELECTOR, "mtls": {"mode": "NEWER"}, "portLevelMtls": {"80": 1}}
    made = in_place_of(
        "PeerAuthentication", spec, creationTimestamp="2030-01-01T00:00:00Z"
    )
    assert made.spec.selector.match_labels == {"app": "vault"}
    assert made.spec.mtls.mode is MutualTlsMode.STRICT
    assert made.spec.port_level_mtls is None
    assert made.created < "2000"


def test_tokens_that_cannot_be_checked_are_refused_with_everything_else() -> None:
    made = in_place_of(
        "RequestAuthentication", {**SELECTOR, "jwtRules": [{"issuer": ""}]}
    )
    assert made.kind == "AuthorizationPolicy"
    assert made.spec.selector.match_labels == {"app": "vault"}
    assert made.spec.action is Action.DENY and made.spec.rules == (Rule(),)


@pytest.mark.parametrize("kind", ["AuthorizationPolicy", "RequestAuthentication"])
def test_a_policy_whose_content_is_lost_closes_its_namespace(kind: str) -> None:
    made: Any = closed(kind, "shop", "it", None)
    assert made.namespace == "shop" and made.spec.selector is None
    assert made.spec.action is Action.DENY and made.spec.rules == (Rule(),)


WAY_OUT = {"outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"}}


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("MeshConfig", {"accessLogFile": 3}),
        ("MeshConfig", {"ofAnotherVersion": {}}),
        ("Sidecar", {"egress": [{"hosts": ["x"]}]}),
        ("Sidecar", {"ofAnotherVersion": 1}),
    ],
)
def test_where_apps_may_go_out_stays_when_other_settings_cannot_be_read(
    kind: str, wrong: Any
) -> None:
    spec = in_place_of(kind, {**WAY_OUT, **wrong}).spec
    assert spec.outbound_traffic_policy.mode.value == "REGISTRY_ONLY"


@pytest.mark.parametrize("kind", ["MeshConfig", "Sidecar"])
@pytest.mark.parametrize("wrong", [{"mode": "NEWER"}, 3, {"ofAnotherVersion": 1}])
def test_a_way_out_that_cannot_be_read_leads_to_the_mesh_alone(
    kind: str, wrong: Any
) -> None:
    spec = in_place_of(kind, {"outboundTrafficPolicy": wrong}).spec
    assert spec.outbound_traffic_policy.mode.value == "REGISTRY_ONLY"


def test_a_sidecar_keeps_whom_it_selects() -> None:
    spec = in_place_of(
        "Sidecar",
        {"workloadSelector": {"labels": {"app": "vault"}}, "ingress": 3, **WAY_OUT},
    ).spec
    assert spec.workload_selector.labels == {"app": "vault"}


def test_other_kinds_have_nothing_in_their_place() -> None:
    assert in_place_of("VirtualService", {"hosts": 1}) is None
    assert closed("Secret", "shop", "it", None) is None
