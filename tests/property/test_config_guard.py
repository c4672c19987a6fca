"""Whatever happens to the store, in whatever order: what was accepted is in force until somebody
changes or removes it.
"""

from __future__ import annotations

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dockermesh.registry.consul.config_guard import (
    Marker,
    Standing,
    judge,
    read_marker,
    standing,
)
from dockermesh.registry.consul.values import accept_all, read_values
from dockermesh.registry.protocols import StoredResource

KEYS = ["security.istio.io/AuthorizationPolicy/default/a", "x/Y/default/b", "x/Y/z/c"]
keys, values = st.sampled_from(KEYS), st.integers(0, 3)


class Store(RuleBasedStateMachine):
    """Consul, as much of it as matters, and one follower of it."""

    def __init__(self) -> None:
        super().__init__()
        self.index = 1
        self.pairs: dict[str, tuple[bytes, int]] = {}
        self.marker: tuple[str, int] | None = None
        self.snapshot: Any = None

        self.accepted: dict[str, dict[str, Any]] = {}
        self.known: dict[str, StoredResource] = {}
        self.seen: Marker | None = None
        self.follow()

    def follow(self) -> None:
        """Read until nothing is to be brought back, as `ConsulConfigStore` does."""
        for _ in range(3):
            text, at = self.marker or ("", 0)
            found = read_marker(text.encode(), at)
            how = standing(self.seen, found)
            pairs = [
                (key, {"Value": value, "ModifyIndex": version})
                for key, (value, version) in self.pairs.items()
            ]
            known = how is Standing.CURRENT
            reading = read_values(
                pairs, self.known, accept_all, are_versions_known=known
            )
            judgement = judge(how, self.known, reading.resources)
            self.known = dict(judgement.in_force)
            # Between the reading and the mending, too.
            self.is_as_accepted()

            for key, (version, new) in {
                **judgement.changes,
                **reading.repairs,
            }.items():
                assert version == self.pairs.get(key, (b"", 0))[1]
                self.write(key, new)
            if how is Standing.CURRENT:
                self.seen = found
                continue
            base = self.seen or Marker("us", 0, 0)
            self.touch(Marker(base.store, base.generation + 1, 0))
            self.seen = Marker(base.store, base.generation + 1, 0)

    def write(self, key: str, document: Any) -> None:
        self.index += 1
        if document is None:
            self.pairs.pop(key, None)
        else:
            self.pairs[key] = (json.dumps(document).encode(), self.index)

    def touch(self, marker: Marker) -> None:
        self.index += 1
        self.marker = (marker.text("n"), self.index)

    @rule(key=keys, value=values)
    def put(self, key: str, value: int) -> None:
        assert self.seen is not None
        self.write(key, {"value": value})
        self.touch(self.seen)
        self.accepted[key] = {"value": value}
        self.follow()

    @rule(key=keys)
    def delete(self, key: str) -> None:
        assert self.seen is not None
        self.write(key, None)
        self.touch(self.seen)
        self.accepted.pop(key, None)
        self.follow()

    @rule(key=keys, text=st.sampled_from([b"", b"{", b"[]", b"null", b"\xff"]))
    def damage(self, key: str, text: bytes) -> None:
        if key in self.pairs:
            self.index += 1
            self.pairs[key] = (text, self.index)
        self.follow()

    @rule(restart=st.booleans())
    def wipe(self, restart: bool) -> None:
        self.pairs, self.marker = {}, None
        self.index = 1 if restart else self.index + 1
        self.follow()

    @rule()
    def save(self) -> None:
        self.snapshot = (self.index, dict(self.pairs), self.marker)

    @rule()
    def restore(self) -> None:
        if self.snapshot is not None:
            index, pairs, self.marker = self.snapshot
            self.index, self.pairs = index, dict(pairs)
        self.follow()

    @rule()
    def forget_marker(self) -> None:
        self.marker = None
        self.follow()

    @invariant()
    def is_as_accepted(self) -> None:
        in_force = {key: item.resource for key, item in self.known.items()}
        assert in_force == self.accepted

    @invariant()
    def store_is_mended(self) -> None:
        assert {k: json.loads(v) for k, (v, _) in self.pairs.items()} == self.accepted


Store.TestCase.settings = settings(max_examples=200, stateful_step_count=20)
TestStore = Store.TestCase


def test_a_marker_is_read_as_it_was_written() -> None:
    marker = Marker("abc", 3, 17)
    assert read_marker(marker.text("n").encode(), 17) == marker
    for text in (b"", b"{}", b"store a generation b write c", None, b"store a"):
        assert read_marker(text, 1) is None


def test_what_another_replica_brought_back_is_completed_not_undone() -> None:
    ours = {KEYS[0]: StoredResource(KEYS[0], {"value": 1}, 90)}
    theirs = {KEYS[1]: StoredResource(KEYS[1], {"value": 2}, 5)}
    how = standing(Marker("us", 1, 90), Marker("us", 2, 6))
    judgement = judge(how, ours, theirs)
    assert set(judgement.in_force) == {KEYS[0], KEYS[1]}
    assert judgement.changes == {KEYS[0]: (0, {"value": 1})}
