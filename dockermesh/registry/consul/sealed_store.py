"""One sealed text in Consul's KV, which all control planes share: read, followed, and written with
check-and-set.

It is the CA's material, encrypted before it comes here. Invariant: a write that does not know the
present text fails.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import FAILURES, registry_error
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import RegistryError
from dockermesh.model.contract import KEY_CA
from dockermesh.registry.consul.watch import ATTENTIVE, Outages, Watch
from dockermesh.registry.grace import Grace
from dockermesh.registry.protocols import Sealed


class ConsulSealedStore:
    """The text at `dockermesh/ca`."""

    where = f"Consul's KV, {KEY_CA}"

    def __init__(self, settings: ConsulSettings, grace: Grace | None = None) -> None:
        self._settings = settings
        self.grace = grace or Grace()
        self._client: ConsulClient | None = None

    async def read(self) -> Sealed:
        """The text as it is now. Raises RegistryError when Consul does not tell."""
        try:
            # A follower's answer may be old, and an old answer here could make a second CA.
            _, item = await self._connect().kv.get(KEY_CA, consistency="consistent")
        except FAILURES as error:
            raise self._failed(error, "a read of the CA") from error
        return _sealed(item)

    async def write(self, text: str, version: int) -> bool:
        """Write the text; False if it is not at `version` any more (0: there must be none). Raises
        RegistryError.
        """
        try:
            return bool(await self._connect().kv.put(KEY_CA, text, cas=version))
        except FAILURES as error:
            raise self._failed(error, "a change of the CA") from error

    async def follow(self, publish: Callable[[Sealed], None]) -> None:
        """Publish the text now and after every change, until cancelled."""
        client = self._connect()

        async def fetch(index: int | None) -> Any:
            at, item = await client.kv.get(KEY_CA, index=index, wait=ATTENTIVE)
            return at, _sealed(item)

        await Watch(
            "the CA", fetch, publish, Outages(self._settings.address, lambda: None)
        ).run()

    async def close(self) -> None:
        """Close the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _connect(self) -> ConsulClient:
        if self._client is None:
            self._client = ConsulClient(self._settings)
        return self._client

    def _failed(self, error: BaseException, what: str) -> RegistryError:
        return registry_error(error, self._settings.address, what, where=self.where)


def _sealed(item: Any) -> Sealed:
    if not item:
        return Sealed()
    # A key may exist without a value.
    value = item.get("Value") or b""
    return Sealed(
        value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value),
        int(item["ModifyIndex"]),
    )
