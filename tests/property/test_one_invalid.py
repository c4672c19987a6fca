"""One invalid resource among many valid ones costs itself alone, and is named with its field."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from dockermesh.config.documents import read_text
from dockermesh.controlplane.config_reader import ConfigReader
from dockermesh.registry.consul.config_store import StoredResource

COUNT = 200


def rule(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"host": name, **spec},
    }


SPOILED = st.sampled_from(
    [
        ({"hots": "a"}, "spec.hots"),
        ({"host": ""}, "spec.host"),
        (
            {"trafficPolicy": {"connectionPool": {"tcp": {"connectTimeout": "-1s"}}}},
            "spec.trafficPolicy",
        ),
        ({"subsets": [{"name": "a b", "labels": {}}]}, "spec.subsets[0].name"),
        ({"subsets": 3}, "spec.subsets"),
    ]
)


@settings(max_examples=4, deadline=None)
@given(position=st.integers(0, COUNT), spoiled=SPOILED)
def test_in_a_file(position: int, spoiled: tuple[dict[str, Any], str]) -> None:
    documents = [rule(f"r{n}") for n in range(COUNT)]
    documents.insert(position, rule("bad", **spoiled[0]))
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    reading = read_text(yaml.dump_all(documents, Dumper=dumper))
    assert {r.name for r in reading.resources} == {f"r{n}" for n in range(COUNT)}
    errors = [finding for finding in reading.findings if finding.is_error]
    assert {finding.resource for finding in errors} == {"DestinationRule shop/bad"}
    assert any(finding.field.startswith(spoiled[1]) for finding in errors)


@settings(max_examples=4, deadline=None)
@given(position=st.integers(0, COUNT), spoiled=SPOILED)
def test_in_the_store(position: int, spoiled: tuple[dict[str, Any], str]) -> None:
    documents = [rule(f"r{n}") for n in range(COUNT)]
    documents.insert(position, rule("bad", **spoiled[0]))
    stored = {}
    for version, document in enumerate(documents):
        key = f"networking.istio.io/DestinationRule/shop/{document['metadata']['name']}"
        stored[key] = StoredResource(key, document, version)
    with capture_logs() as logged:
        config = ConfigReader().read(stored, {})
    assert {r.name for r in config.destination_rules} == {f"r{n}" for n in range(COUNT)}
    left_out = [entry for entry in logged if entry["event"] == "resource left out"]
    assert {entry["where"] for entry in left_out} == {
        "networking.istio.io/DestinationRule/shop/bad"
    }
    assert any(entry["field"].startswith(spoiled[1]) for entry in left_out)
