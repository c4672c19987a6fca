"""The cache behind lists and watches: a watch from any version since gets every later change."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from patience import SLACK

from dockermesh.kubeapi.cache import ObjectCache


@dataclass
class Thing:
    version: int
    uid: str = "u"
    resource: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.resource = {"metadata": {"uid": self.uid}}


def test_a_replaced_object_is_removed_and_added() -> None:
    cache = ObjectCache()
    cache.update({"k": Thing(1, "one")}, 1)
    cache.update({"k": Thing(5, "two")}, 5)
    changes = cache.since(0)
    assert changes is not None
    assert [(c.before is not None, c.after is not None) for c in changes] == [
        (True, False),
        (False, True),
    ]


def test_history_that_is_forgotten_is_told() -> None:
    cache = ObjectCache(history=2)
    cache.update({}, 10)
    for version in range(11, 15):
        cache.update({"k": Thing(version)}, version)
    assert cache.position_of(10) is None
    assert cache.position_of(12) is not None
    assert cache.since(0) is None


def test_a_store_that_was_replaced_by_an_older_one_ends_all_watches() -> None:
    cache = ObjectCache()
    cache.update({"k": Thing(100)}, 100)
    position = cache.end
    cache.update({"k": Thing(101)}, 101)
    cache.update({"k": Thing(3)}, 3)
    assert cache.since(position) is None


async def test_waiting_for_a_write_ends_with_it_or_with_time() -> None:
    cache = ObjectCache()
    cache.update({}, 1)
    with pytest.raises(TimeoutError):
        await cache.wait_for("k", 0, 0.01)
    cache.update({"k": Thing(2)}, 2)
    seen = await cache.wait_for("k", 0, 1 * SLACK)
    assert seen is not None and seen.version == 2


@pytest.mark.parametrize("seed", range(30))
def test_whoever_resumes_anywhere_ends_with_the_same_contents(seed: int) -> None:
    chance = random.Random(seed)
    cache, objects, index = ObjectCache(), {}, 1
    cache.update({}, index)
    # A client's view by the version it has seen last.
    views: dict[int, dict[str, int]] = {index: {}}
    for _ in range(40):
        for _ in range(chance.randint(1, 4)):
            index += 1
            key = chance.choice("abcdef")
            if key in objects and chance.random() < 0.4:
                del objects[key]
            else:
                objects[key] = Thing(
                    index, objects[key].uid if key in objects else f"u{index}"
                )
        cache.update(objects, index)
        for version, view in list(views.items()):
            position = cache.position_of(version)
            assert position is not None
            changes = cache.since(position)
            assert changes is not None
            # The client may break off after any of them.
            seen = dict(view)
            for change in changes[: chance.randint(0, len(changes))]:
                if change.after is None:
                    seen.pop(change.key, None)
                else:
                    seen[change.key] = change.after.version
                views[change.version] = dict(seen)
    for version, view in views.items():
        position = cache.position_of(version)
        assert position is not None
        seen = dict(view)
        for change in cache.since(position) or []:
            if change.after is None:
                seen.pop(change.key, None)
            else:
                seen[change.key] = change.after.version
        assert seen == {k: o.version for k, o in objects.items()}
