"""Whatever becomes of a resource, it is refused with a message, or what it is translated to is
taken by Envoy.
"""

from __future__ import annotations

import copy
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from envoy_verdicts import bootstrap, certificate, refusal
from hypothesis import given, note, settings
from hypothesis import strategies as st
from mangling import DOCUMENTS, accepted, mangle, messages, part, places, told

from dockermesh.config.resource import Resource
from dockermesh.translate.patches.soundness import (
    cluster_fault,
    listener_fault,
    table_fault,
)

FAULTS = {
    "Cluster": cluster_fault,
    "Listener": listener_fault,
    "RouteConfiguration": table_fault,
}
ROUNDS = 3
"""Each starts Envoy once per proxy. For a campaign: MANGLE_SEED=100 MANGLE_ROUNDS=500."""


def test_all_resources_are_valid_as_they_are() -> None:
    for document in DOCUMENTS:
        assert accepted(document), document["metadata"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_what_a_mangled_resource_becomes_breaks_no_rule_of_envoy(
    seed: int, is_alone: bool
) -> None:
    chance, documents = random.Random(seed), copy.deepcopy(DOCUMENTS)
    spoiled = chance.choice(documents)
    for _ in range(chance.randint(1, 3)):
        mangle(chance, spoiled)
    note(json.dumps(spoiled, default=repr))
    for snapshot in told(
        r for d in ([spoiled] if is_alone else documents) for r in accepted(d)
    ):
        for message in messages(snapshot):
            fault = FAULTS.get(message.DESCRIPTOR.name)
            assert fault is None or not fault(message)


@pytest.mark.parametrize("kind", sorted({document["kind"] for document in DOCUMENTS}))
def test_half_a_surrogate_pair_is_refused_wherever_it_stands(kind: str) -> None:
    for document in (d for d in DOCUMENTS if d["kind"] == kind):
        for path in [p for p in places(document) if len(p) > 1 and p[0] == "spec"]:
            spoiled = copy.deepcopy(document)
            part(spoiled, path[:-1])[path[-1]] = "\ud800"
            assert not accepted(spoiled), path


def mangled_mesh(seed: int) -> list[Resource[Any]]:
    """Every resource mangled in a way that validation accepts, where one of a few tries gives such
    a way.
    """
    chance, resources = random.Random(seed), []
    for document in DOCUMENTS:
        for _ in range(4):
            tried = copy.deepcopy(document)
            mangle(chance, tried)
            found = accepted(tried)
            if found:
                resources.extend(found)
                break
    return resources


@pytest.mark.binary
def test_envoy_takes_what_mangled_resources_become(tmp_path: Path) -> None:
    pair, first = certificate(), int(os.environ.get("MANGLE_SEED", "1"))
    for seed in range(first, first + int(os.environ.get("MANGLE_ROUNDS", ROUNDS))):
        resources = mangled_mesh(seed)
        for number, snapshot in enumerate(told(resources)):
            refused = refusal(
                bootstrap(snapshot, pair), tmp_path / f"{seed}-{number}.json"
            )
            assert not refused, f"seed {seed}, proxy {number}: {refused}"
