"""Selectors, tables, schemas, bodies and pruning, as pure functions."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dockermesh.kubeapi import openapi
from dockermesh.kubeapi.checking import (
    MAX_DEPTH,
    STRICT,
    WARN,
    check_document,
    parse_json,
)
from dockermesh.kubeapi.protobuf import read_protobuf
from dockermesh.kubeapi.selectors import parse_selectors
from dockermesh.kubeapi.served import SERVED, groups, named
from dockermesh.kubeapi.status import StatusError
from dockermesh.kubeapi.tables import age, wants_table


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("app=a", True),
        ("app==b", False),
        ("app!=b", True),
        ("none!=b", True),
        ("app in (a, b),tier", True),
        ("app notin (a,b)", False),
        ("none notin (a)", True),
        ("tier", True),
        ("!tier", False),
        ("!none,app=a", True),
        ("example.com/x=", True),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    check = parse_selectors(selector, "")
    assert check is not None
    assert (
        check({"metadata": {"labels": {"app": "a", "tier": "1", "example.com/x": ""}}})
        is matches
    )


@pytest.mark.parametrize(
    "selector", ["a b", "a=b=c", "in (a)", "a in b", "=a", "a in (b"]
)
def test_malformed_selectors_are_refused(selector: str) -> None:
    with pytest.raises(StatusError) as failure:
        parse_selectors(selector, "")
    assert failure.value.code == 400


def test_field_selectors_know_name_and_namespace_only() -> None:
    check = parse_selectors("", "metadata.name=a,metadata.namespace!=b")
    assert check is not None and check({"metadata": {"name": "a", "namespace": "c"}})
    with pytest.raises(StatusError):
        parse_selectors("", "spec.host=a")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *(
            (5, "5s"),
            (119, "119s"),
            (120, "2m"),
            (185, "3m5s"),
            (3600, "60m"),
            (10800, "3h"),
            (11100, "3h5m"),
        ),
        *((86400, "24h"), (200000, "2d7h"), (864000, "10d"), (86400 * 800, "2y70d")),
    ],
)
def test_ages_are_kubectls(seconds: int, text: str) -> None:
    assert age((datetime.now(UTC) - timedelta(seconds=seconds)).isoformat()) == text
    assert age("") == "<unknown>"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", True),
        ("application/json", False),
        (
            "application/json;as=Table;v=v9;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io",
            True,
        ),
        ("application/json,application/json;as=Table;v=v1;g=meta.k8s.io", False),
        ("", False),
    ],
)
def test_tables_are_for_those_who_ask(accept: str, wanted: bool) -> None:
    assert wants_table(accept) is wanted


def test_every_kind_has_a_schema_and_a_patch_that_takes_field_validation() -> None:
    for group, version in [
        ("", "v1"),
        *((g, v) for g, versions in groups().items() for v in versions),
    ]:
        document = json.loads(
            json.dumps(openapi.document(group, version), allow_nan=False)
        )
        kinds = [
            k["x-kubernetes-group-version-kind"][0]["kind"]
            for k in document["components"]["schemas"].values()
            if "x-kubernetes-group-version-kind" in k
        ]
        for served in (s for s in SERVED if s.group == group and version in s.versions):
            assert served.kind in kinds
        patches = [p["patch"] for p in document["paths"].values() if "patch" in p]
        assert patches
        assert all(
            {"fieldValidation", "dryRun"} <= {q["name"] for q in p["parameters"]}
            for p in patches
        )


def test_kinds_answer_to_all_their_names() -> None:
    for word in (
        "vs",
        "VirtualService",
        "virtualservices",
        "virtualservice.networking.istio.io",
    ):
        served = named(word)
        assert served is not None and served.kind == "VirtualService"
    assert named("virtualservices.v1beta1.networking.istio.io") is not None
    assert named("pods") is None


@pytest.mark.parametrize(
    "text", ["", "{", "NaN", '{"a": Infinity}', '"\\ud800"', "[" * 100000, "1" * 5000]
)
def test_bodies_that_could_do_harm_are_refused(text: str) -> None:
    with pytest.raises(StatusError) as failure:
        parse_json(text)
    assert failure.value.code == 400


def test_bodies_may_be_nested_as_deeply_as_any_real_resource() -> None:
    parse_json("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    with pytest.raises(StatusError):
        parse_json("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def _rule(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "reviews", "namespace": "default"}
    rule = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": metadata,
    }
    return {**rule, "spec": {"host": "reviews", **spec}}


def test_unknown_fields_are_refused_pruned_or_passed_over() -> None:
    served = named("dr")
    assert served is not None
    document = _rule(
        foo=1, subsets=[{"name": "v1", "lables": {"a": "b"}, "we.ird key'": 1}]
    )
    with pytest.raises(StatusError) as failure:
        check_document(document, served, STRICT)
    assert failure.value.code == 400
    assert 'unknown field "spec.foo"' in failure.value.message
    checked = check_document(document, served, WARN)
    assert checked.document["spec"] == {"host": "reviews", "subsets": [{"name": "v1"}]}
    assert len(checked.warnings) == 3
    assert document["spec"]["foo"] == 1


def test_broken_rules_name_the_field() -> None:
    served = named("dr")
    assert served is not None
    with pytest.raises(StatusError) as failure:
        check_document(
            _rule(trafficPolicy={"loadBalancer": {"simple": "NONSENSE"}}),
            served,
            STRICT,
        )
    assert failure.value.code == 422
    assert failure.value.details is not None
    assert (
        failure.value.details["causes"][0]["field"]
        == "spec.trafficPolicy.loadBalancer.simple"
    )


def test_kubectls_protobuf_of_a_namespace() -> None:
    # Recorded from `kubectl create namespace foo`, version 1.32.
    recorded = (
        b'k8s\x00\n\x0f\n\x02v1\x12\tNamespace\x12\x1b\n\x13\n\x03foo\x12\x00\x1a\x00"\x00*\x002\x008\x00B\x00'
        b'\x12\x00\x1a\x02\n\x00\x1a\x00"\x00'
    )
    assert read_protobuf(recorded)["metadata"]["name"] == "foo"


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"k8s\x00\xff", b"k8s\x00\x12\x7f", b"k8s\x00" + b"\xff" * 40]
)
def test_other_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(StatusError) as failure:
        read_protobuf(data)
    assert failure.value.code == 400
