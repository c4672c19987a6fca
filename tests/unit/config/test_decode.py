"""Plain data to typed specs."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.destination_rule import DestinationRule, SimpleLB
from dockermesh.config.api.peer_authentication import (
    MutualTls,
    MutualTlsMode,
    PeerAuthentication,
)
from dockermesh.config.api.virtual_service import FaultAbort, HTTPRetry, VirtualService
from dockermesh.config.decode import decode
from dockermesh.config.findings import Findings, render_path
from dockermesh.config.kinds import KINDS, MESH_CONFIG
from dockermesh.config.limits import parse_duration


def problems_of(cls: type, raw: object) -> list[str]:
    findings = Findings()
    decode(cls, raw, findings.at("spec"))
    return [f"{render_path(p.path)}: {p.message}" for p in findings.found]


@pytest.mark.parametrize("kind", [*KINDS, MESH_CONFIG], ids=lambda kind: kind.name)
def test_every_kind_decodes_the_empty_spec(kind: object) -> None:
    cls = kind.spec_class()  # type: ignore[attr-defined]
    findings = Findings()
    assert isinstance(decode(cls, {}, findings.at("spec")), cls)
    assert all(p.message == "is required" for p in findings.found)


@pytest.mark.parametrize("name", ["perTryTimeout", "per_try_timeout"])
def test_both_spellings_of_a_field(name: str) -> None:
    findings = Findings()
    retries = decode(HTTPRetry, {"attempts": 3, name: "1.5s"}, findings.at())
    assert retries == HTTPRetry(attempts=3, per_try_timeout=timedelta(seconds=1.5))
    assert not findings.found


def test_all_problems_in_one_go_with_their_paths() -> None:
    raw = {
        "hosts": "reviews",
        "http": [
            {"timeout": 5},
            None,
            {"retries": {"attempts": "3"}, "route": [{"weight": 2**31}]},
        ],
        "htttp": [],
    }
    assert problems_of(VirtualService, raw) == [
        "spec.hosts: must be a list, not 'reviews'",
        "spec.http[0].timeout: must be a duration such as 1.5s or 2m30s, not 5",
        "spec.http[1]: must not be null",
        "spec.http[2].retries.attempts: must be an integer, not '3'",
        (
            "spec.http[2].route[0].weight: must be at least -2147483648 and at most 2147483647, not"
            " 2147483648"
        ),
        "spec.http[2].route[0].destination: is required",
        "spec.htttp: unknown field 'htttp'; did you mean 'http'?",
    ]


def test_null_is_absent() -> None:
    assert problems_of(VirtualService, {"hosts": ["a"], "http": None}) == []


def test_enums_by_name_only() -> None:
    raw = {"host": "a", "trafficPolicy": {"loadBalancer": {"simple": 1}}}
    (problem,) = problems_of(DestinationRule, raw)
    assert problem.startswith(
        "spec.trafficPolicy.loadBalancer.simple: 1 is not one of UNSPECIFIED, RANDOM"
    )


def test_only_one_of_a_oneof() -> None:
    assert problems_of(StringMatch, {"exact": "", "regex": "a"}) == [
        "spec.regex: only one of exact, regex may be set"
    ]
    assert problems_of(FaultAbort, {"httpStatus": 500, "grpcStatus": None}) == []


def test_maps_with_number_keys() -> None:
    findings = Findings()
    raw = {"portLevelMtls": {"8080": {"mode": "STRICT"}}}
    spec = decode(PeerAuthentication, raw, findings.at())
    assert spec.port_level_mtls == {8080: MutualTls(MutualTlsMode.STRICT)}


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1h30m", 5_400_000),
        ("1.5s", 1500),
        ("300ms", 300),
        ("0", 0),
        ("-2s", -2000),
        (".5m", 30_000),
        ("24h", 86_400_000),
    ],
)
def test_durations_are_read_as_go_does(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize(
    "text",
    ["", "5", "5 s", "1d", "s", "1s2", "1.s.", "--1s", "3.000000042s", "9" * 30 + "h"],
)
def test_what_is_no_duration(text: str) -> None:
    assert isinstance(parse_duration(text), str)


def test_defaults_are_istios() -> None:
    rule = decode(
        DestinationRule,
        {"host": "a", "trafficPolicy": {"loadBalancer": {}}},
        Findings().at(),
    )
    assert (
        rule.traffic_policy is not None
        and rule.traffic_policy.load_balancer is not None
    )
    assert rule.traffic_policy.load_balancer.simple is None
    assert SimpleLB("LEAST_REQUEST") is SimpleLB.LEAST_REQUEST
