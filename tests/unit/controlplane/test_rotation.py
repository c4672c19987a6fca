"""Control planes tell each other whose proxies have taken a step of a rotation, and little else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from patience import SLACK

from dockermesh.ca import Material, Step, advance, new_material
from dockermesh.controlplane.trust import rotation
from dockermesh.controlplane.trust.rotation import Rotation, Taken

NOW = datetime.now(UTC)


class Store:
    """Documents in a dictionary, as in `ConsulDocuments`."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    async def read(self) -> dict[str, Any]:
        return dict(self.kept)

    async def folders(self) -> list[str]:
        return sorted({path.partition("/")[0] for path in self.kept})

    async def create(self, path: str, document: Mapping[str, Any]) -> bool:
        self.kept[path] = dict(document)
        return True

    async def remove(self, folder: str) -> None:
        for path in [p for p in self.kept if p.startswith(f"{folder}/")]:
            del self.kept[path]

    async def close(self) -> None:
        """Nothing is open."""


class Replica:
    """A control plane's view."""

    def __init__(self, store: Store) -> None:
        self.material: Material = new_material("mesh.test", NOW)
        self.taken = Taken()
        self.rotation = Rotation(store, lambda: self.material, lambda: self.taken)

    def step(self, step: Step) -> None:
        self.material = advance(self.material, step, "mesh.test", NOW)
        self.rotation.wake()


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.rotation.run()) for each in replicas]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_TELL_S", 0.01)


async def seen(replica: Replica, wanted: Taken) -> None:
    for _ in range(int(500 * SLACK)):
        if await replica.rotation.others() == wanted:
            return
        await asyncio.sleep(0.01)
    assert await replica.rotation.others() == wanted


def taken(confirmed: str, late: str = "") -> Taken:
    return Taken(frozenset(confirmed), frozenset(late))


async def test_what_one_tells_another_knows_until_the_next_step() -> None:
    store = Store()
    one, two = Replica(store), Replica(store)
    one.taken = taken("a", "b")
    async with running(one, two):
        assert await two.rotation.others() == Taken()
        for each in (one, two):
            each.step(Step.PREPARE)
        await seen(two, taken("a", "b"))

        one.taken = taken("ab")
        await seen(two, taken("ab"))
        assert [d["confirmed"] for d in store.kept.values()] == [["a"], ["b"]]
        one.taken = taken("b")
        await asyncio.sleep(0.05)
        assert len(store.kept) == 2, "who has left has taken the step all the same"

        two.step(Step.SWITCH)
        assert await two.rotation.others() == Taken()


async def test_who_is_late_here_may_have_taken_the_step_there() -> None:
    store = Store()
    one, two = Replica(store), Replica(store)
    one.taken, two.taken = taken("", "ab"), taken("a")
    for each in (one, two):
        each.step(Step.PREPARE)
    async with running(one, two):
        await seen(one, taken("a", "b"))


async def test_nothing_is_written_but_in_a_rotation_and_its_remains_go() -> None:
    store = Store()
    one = Replica(store)
    one.taken = taken("a")
    async with running(one):
        await asyncio.sleep(0.05)
        assert store.kept == {}
    store.kept |= {"1/x-1": {"confirmed": ["a"]}, "2/x-1": {"confirmed": ["b"]}}
    await one.rotation.begin()
    assert set(store.kept) == {"2/x-1"}, "another one has taken the step already"


async def test_documents_of_others_that_make_no_sense_count_for_nothing() -> None:
    store = Store()
    one = Replica(store)
    one.step(Step.PREPARE)
    store.kept |= {
        "2/x-1": ["a"],
        "2/x-2": {"confirmed": 7, "late": [1]},
        "2/x-y": {"late": ["a"]},
    }
    assert await one.rotation.others() == Taken()
