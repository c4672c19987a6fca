"""What the watch fetched before a write was read back comes too late, and says nothing."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from patience import SLACK

from dockermesh.consul.settings import ConsulSettings
from dockermesh.registry.consul import config_store
from dockermesh.registry.consul.config_store import ConsulConfigStore
from dockermesh.registry.protocols import StoredResource

PREFIX = "dockermesh/config/"
ONE, TWO = "x/Y/default/one", "x/Y/default/two"


class Consul:
    """As much of Consul's client as the store uses. A blocking query that has its answer runs
    `meanwhile` before the watch gets it.
    """

    wait = 1

    def __init__(self, _settings: ConsulSettings) -> None:
        self.kv = self.txn = self
        self.index, self.pairs = 1, dict[str, tuple[bytes, int]]()
        self.written: list[list[str]] = []
        self.meanwhile: Any = None
        self.changed = asyncio.Event()

    async def get(self, prefix: str, *, index: int | None = None, **_: Any) -> Any:
        while index is not None and index >= self.index:
            await self.changed.wait()
        items = [
            {"Key": key, "Value": value, "ModifyIndex": at}
            for key, (value, at) in self.pairs.items()
            if key.startswith(prefix)
        ]
        if index is not None and self.meanwhile is not None:
            asyncio.get_running_loop().create_task(self.meanwhile)
            self.meanwhile = None
        return self.index, items

    async def put(self, operations: list[dict[str, Any]]) -> None:
        self.index += 1
        self.written.append(
            [one["KV"]["Key"].removeprefix(PREFIX) for one in operations]
        )
        for one in (one["KV"] for one in operations):
            self.pairs[one["Key"]] = (base64.b64decode(one["Value"]), self.index)
        self.changed.set()
        self.changed = asyncio.Event()

    async def close(self) -> None:
        pass


async def comes_true(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10 * SLACK):
        while not condition():  # noqa: ASYNC110  # several things are waited for
            await asyncio.sleep(0.01)


async def test_an_answer_of_before_a_write_is_no_store_that_was_taken_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    consul = Consul(ConsulSettings())
    monkeypatch.setattr(config_store, "ConsulClient", lambda _settings: consul)
    store = ConsulConfigStore(ConsulSettings())
    published: list[tuple[str, ...]] = []

    def publish(stored: Mapping[str, StoredResource]) -> None:
        published.append((*sorted(stored), store.problem))

    following = asyncio.create_task(store.follow(publish))
    try:
        await comes_true(lambda: consul.written and not store.problem)
        # The watch has the answer to the first write in hand when the second is read back.
        consul.meanwhile = store.put(TWO, {"n": 2})
        await store.put(ONE, {"n": 1})
        await comes_true(lambda: TWO in published[-1])
        await asyncio.sleep(0.1)

        assert consul.written == [[".store"], [ONE, ".store"], [TWO, ".store"]]
        assert published[-1] == (ONE, TWO, "")
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
