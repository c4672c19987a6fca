"""The config store of a mesh without Consul: what is written survives, whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from patience import SLACK

from dockermesh.errors import RegistryError
from dockermesh.registry.consul.config_store import StoredResource
from dockermesh.registry.folder.config_store import FolderConfigStore

KEY = "networking.istio.io/Gateway/default/front"
GATEWAY = {
    "kind": "Gateway",
    "metadata": {"name": "front"},
    "spec": {"selector": {"istio": "ingressgateway"}},
}


class Reader:
    """Runs a store and keeps what it published."""

    def __init__(self, store: FolderConfigStore) -> None:
        self.published: asyncio.Queue[Mapping[str, StoredResource]] = asyncio.Queue()
        self.task = asyncio.create_task(store.follow(self.published.put_nowait))

    async def next(self) -> Mapping[str, StoredResource]:
        return await asyncio.wait_for(self.published.get(), 5 * SLACK)


@pytest.fixture
async def readers() -> AsyncIterator[list[Reader]]:
    started: list[Reader] = []
    yield started
    for reader in started:
        reader.task.cancel()
    await asyncio.gather(*(r.task for r in started), return_exceptions=True)


async def test_what_is_written_is_published_and_survives(
    tmp_path: Path, readers: list[Reader]
) -> None:
    store = FolderConfigStore(tmp_path / "config")
    readers.append(Reader(store))
    assert await readers[0].next() == {}
    assert await store.put(KEY, GATEWAY)
    assert (await readers[0].next())[KEY].resource == GATEWAY

    readers.append(Reader(FolderConfigStore(tmp_path / "config")))
    assert (await readers[1].next())[KEY].resource == GATEWAY

    assert await store.delete(KEY)
    assert await readers[0].next() == {}
    assert list((tmp_path / "config").iterdir()) == []


async def test_a_writer_with_an_old_version_is_refused(tmp_path: Path) -> None:
    store = FolderConfigStore(tmp_path)
    assert await store.put(KEY, GATEWAY, version=0)
    assert not await store.put(KEY, {"changed": True}, version=0)
    assert not await store.delete(KEY, version=7)
    assert await store.put(KEY, {"changed": True}, version=store.index)


async def test_a_damaged_file_takes_no_other_with_it(
    tmp_path: Path, readers: list[Reader]
) -> None:
    await FolderConfigStore(tmp_path).put(KEY, GATEWAY)
    (tmp_path / "networking.istio.io~Gateway~default~torn.json").write_text(
        '{"kind": "Gate'
    )
    (tmp_path / "networking.istio.io~Gateway~default~draft.new").write_text("{}")
    store = FolderConfigStore(tmp_path)
    readers.append(Reader(store))
    found = await readers[0].next()
    torn = "networking.istio.io/Gateway/default/torn"
    assert set(found) == {KEY, torn}
    assert found[torn].is_lost and not found[KEY].damage
    assert torn in store.problem and "no effect" in store.problem


async def test_a_damaged_file_is_repaired_by_a_write(
    tmp_path: Path, readers: list[Reader]
) -> None:
    file = tmp_path / "networking.istio.io~Gateway~default~a.json"
    file.write_text("{")
    key = "networking.istio.io/Gateway/default/a"
    store = FolderConfigStore(tmp_path)
    readers.append(Reader(store))
    torn = (await readers[0].next())[key]
    assert await store.put(key, GATEWAY, torn.version)
    assert (await readers[0].next())[key].resource == GATEWAY
    assert not store.problem


async def test_what_cannot_be_saved_is_not_published(
    tmp_path: Path, readers: list[Reader]
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FolderConfigStore(tmp_path / "file" / "config")
    readers.append(Reader(store))
    assert await readers[0].next() == {}
    with pytest.raises(RegistryError):
        await store.put(KEY, GATEWAY)
    assert readers[0].published.empty()


def names_in(folder: Path) -> list[str]:
    return [file.name for file in folder.glob("*.json")]


async def test_several_resources_are_replaced_together_or_not_at_all(
    tmp_path: Path,
) -> None:
    store = FolderConfigStore(tmp_path)
    assert await store.put("g/k/ns/a", {"spec": 1})
    version = store.index
    assert not await store.replace(
        {"g/k/ns/b": (0, {"spec": 2}), "g/k/ns/a": (version - 1, None)}
    )
    assert names_in(tmp_path) == ["g~k~ns~a.json"]
    assert await store.replace(
        {"g/k/ns/b": (0, {"spec": 2}), "g/k/ns/a": (version, None)}
    )
    assert names_in(tmp_path) == ["g~k~ns~b.json"]
