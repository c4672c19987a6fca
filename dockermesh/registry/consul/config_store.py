"""Istio resources in Consul's KV, below `dockermesh/config/`: followed, and written with
check-and-set.

Invariant: a resource whose ModifyIndex did not change stays the same object, so readers compare by
identity.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import FAILURES, ConsulError, is_conflict, registry_error
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import RegistryError
from dockermesh.model.contract import KEY_CONFIG
from dockermesh.registry.accept import quoted
from dockermesh.registry.consul.watch import Outages, Watch
from dockermesh.registry.protocols import StoredResource

_TRANSACTION = 64
"""Operations that Consul takes in one transaction."""
_log = structlog.get_logger(__name__)


def _text(resource: Mapping[str, Any]) -> str:
    return json.dumps(resource, separators=(",", ":"), sort_keys=True)


def _operation(
    full_key: str, version: int, resource: Mapping[str, Any] | None
) -> dict[str, Any]:
    if resource is None:
        return {"KV": {"Verb": "delete-cas", "Key": full_key, "Index": version}}
    value = base64.b64encode(_text(resource).encode()).decode()
    return {"KV": {"Verb": "cas", "Key": full_key, "Value": value, "Index": version}}


class ConsulConfigStore:
    """Keys are `<group>/<kind>/<namespace>/<name>`, without the prefix; another prefix keeps other
    documents.
    """

    def __init__(self, settings: ConsulSettings, prefix: str = KEY_CONFIG) -> None:
        self._settings = settings
        self._prefix = prefix
        self._client: ConsulClient | None = None
        self._outages = Outages(settings.address, lambda: None)
        self._known: dict[str, StoredResource] = {}
        self._read = asyncio.Event()
        self._index = 0
        self._publish: Callable[[Mapping[str, StoredResource]], None] | None = None

    @property
    def problem(self) -> str:
        """Why the config may be out of date; empty when it is current."""
        return self._outages.sentence

    @property
    def index(self) -> int:
        """Consul's index of what was published last; it grows with every change, removals too."""
        return self._index

    async def follow(
        self, publish: Callable[[Mapping[str, StoredResource]], None]
    ) -> None:
        """Follow the store until cancelled; `publish` gets all resources at first and after every
        change.
        """

        async def fetch(index: int | None) -> Any:
            at, items = await client.kv.get(
                self._prefix, index=index, wait=client.wait, recurse=True
            )
            return at, (int(at), items)

        def reset() -> None:
            self._index = 0

        client = self._connect()
        self._publish = publish

        try:
            await Watch(
                "the config", fetch, self._deliver, self._outages, on_reset=reset
            ).run()
        finally:
            self._publish = None
            await self.close()

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        """Write a resource; False if it is not at `version` any more (0: must not exist; None:
        whatever is there).

        Raises RegistryError if Consul cannot be reached or refuses.
        """
        return await self._write(
            key, lambda kv: kv.put(self._prefix + key, _text(resource), cas=version)
        )

    async def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a resource; False if it is not at `version` any more. Removing what is not there
        succeeds.

        Raises RegistryError if Consul cannot be reached or refuses.
        """
        return await self._write(
            key, lambda kv: kv.delete(self._prefix + key, cas=version)
        )

    async def replace(
        self, changes: Mapping[str, tuple[int, Mapping[str, Any] | None]]
    ) -> bool:
        """Write (None: remove) resources by key, each from this version on; False and nothing done
        if one is not at it.

        Consul does up to 64 in one step; more than that are several steps. Raises RegistryError if
        Consul cannot be reached or refuses, also if that left only some of the steps done.
        """
        operations = [
            _operation(self._prefix + key, version, new)
            for key, (version, new) in changes.items()
        ]
        for start in range(0, len(operations), _TRANSACTION):
            step = operations[start : start + _TRANSACTION]
            if not await self._write(self._prefix, partial(self._transact, step)):
                if not start:
                    return False
                raise RegistryError(
                    f"only {start} of {len(operations)} resources were written: others changed"
                    " meanwhile",
                    fix="try again to write the rest",
                )

        return True

    async def _transact(self, operations: list[dict[str, Any]], _kv: Any) -> bool:
        try:
            await self._connect().txn.put(operations)
        except ConsulError as error:
            if is_conflict(error):
                return False
            raise
        return True

    async def close(self) -> None:
        """Close the connections; `put` and `delete` open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _connect(self) -> ConsulClient:
        if self._client is None:
            self._client = ConsulClient(self._settings)
        return self._client

    def _deliver(self, answer: tuple[int, Any]) -> None:
        index, items = answer
        # An answer that was under way while a write was read back is older than what is known.
        if index < self._index:
            return
        before, first = self._known, not self._read.is_set()
        self._known, self._index = self._parse(items), index
        self._read.set()
        if self._publish is not None and (first or self._known != before):
            self._publish(MappingProxyType(self._known))

    async def _write(self, key: str, write: Callable[[Any], Any]) -> bool:
        kv = self._connect().kv
        try:
            done = bool(await write(kv))
        except FAILURES as error:
            address = self._settings.address
            raise registry_error(
                error, address, "a change of the config", where=key
            ) from error
        if self._read.is_set():
            # At once, as the watch may be pacing itself, and writers wait until their change is
            # seen. If it fails, the watch brings the change.
            with suppress(*FAILURES):
                index, items = await kv.get(self._prefix, recurse=True)
                self._deliver((int(index), items))
        return done

    def _parse(self, items: Any) -> dict[str, StoredResource]:
        resources: dict[str, StoredResource] = {}
        for item in items or ():
            key, version = (
                item["Key"].removeprefix(self._prefix),
                int(item["ModifyIndex"]),
            )
            old = self._known.get(key)
            if old is not None and old.version == version:
                resources[key] = old
                continue

            try:
                value = json.loads(item.get("Value") or b"")
                if not isinstance(value, dict):
                    raise ValueError("not a JSON object")
            except ValueError as error:
                _log.warning(
                    "a stored resource cannot be read",
                    key=quoted(key),
                    reason=quoted(str(error)),
                )
                continue

            resources[key] = StoredResource(key, value, version)

        return resources
