"""JSON documents in Consul's KV, below one prefix: written once, read whole, removed by folder."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from dockermesh.consul.api import KeyValues
from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import FAILURES, registry_error
from dockermesh.consul.settings import ConsulSettings

T = TypeVar("T")


class ConsulDocuments:
    """Paths are without the prefix. Every operation raises RegistryError if Consul cannot be
    reached or refuses.
    """

    def __init__(self, settings: ConsulSettings, prefix: str, what: str) -> None:
        """`what` they are, for messages."""
        self._settings = settings
        self._prefix = prefix
        self._what = what
        self._client: ConsulClient | None = None

    async def read(self) -> dict[str, Any]:
        """All documents by path; what is no JSON is left out."""
        _, items = await self._ask(lambda kv: kv.get(self._prefix, recurse=True))
        found = {}
        for item in items or ():
            try:
                found[item["Key"].removeprefix(self._prefix)] = json.loads(
                    item.get("Value") or b""
                )
            except ValueError:
                continue
        return found

    async def folders(self) -> list[str]:
        """The first parts of all paths."""
        # Up to the separator alone: what is in the folders is not fetched.
        _, keys = await self._ask(
            lambda kv: kv.get(self._prefix, keys=True, separator="/")
        )
        return [key.removeprefix(self._prefix).strip("/") for key in keys or ()]

    async def create(self, path: str, document: Mapping[str, Any]) -> bool:
        """Keep a document; False if there is one at this path already."""
        text = json.dumps(document, separators=(",", ":"), sort_keys=True)
        return bool(
            await self._ask(lambda kv: kv.put(self._prefix + path, text, cas=0))
        )

    async def remove(self, folder: str) -> None:
        """Remove every document in a folder."""
        await self._ask(lambda kv: kv.delete(f"{self._prefix}{folder}/", recurse=True))

    async def close(self) -> None:
        """Close the connections; the next operation opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _ask(self, action: Callable[[KeyValues], Awaitable[T]]) -> T:
        if self._client is None:
            self._client = ConsulClient(self._settings)
        try:
            return await action(self._client.kv)
        except FAILURES as error:
            address = self._settings.address
            raise registry_error(
                error, address, self._what, where=self._prefix
            ) from error
