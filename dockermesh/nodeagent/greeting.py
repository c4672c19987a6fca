"""Whose a network namespace is that the engine is just making, told before its app runs.

The engine answers no question about a container while it starts it, but for where it is on its
networks. So the namespace is entered, and who has its address is asked for. Everything is as
quick as it can be: between the address and the app's first instruction are some 30 ms.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from dockermesh.docker.async_engine import DockerEngine
from dockermesh.errors import EngineError
from dockermesh.nodeagent import namespaces
from dockermesh.nodeagent.places import network_of

log = structlog.get_logger(__name__)

Json = dict[str, Any]
_AT_ONCE_S = 0.05
"""What starts within this time shares one look at the engine's networks and containers."""
_BORN_S = 3.0
"""Within which a new namespace has an address."""


class Greeter:
    """Tells the owners of new namespaces."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._asked: asyncio.Future[Any] | None = None
        self._asked_at = 0.0

    async def owner(self, path: str) -> Json | None:
        """The summary of the container for which the namespace is made; None if that cannot be
        told.
        """
        try:
            # All that can be known before it has an address is asked for meanwhile.
            address, (subnets, listing) = await asyncio.gather(
                _address(path), self._overview()
            )
            network = network_of(address, subnets)
            members = await self._engine.members(network) if network else {}
            holder = next((c for c, ip in members.items() if ip == address), "")
            found = _listed(listing, holder)
            if holder and found is None:
                # It was made after the listing that came in handy.
                found = _listed(await self._engine.list_containers(), holder)
        except (EngineError, OSError) as error:
            log.info("not known before its start", path=path, error=str(error))
            return None
        return found

    async def _overview(self) -> tuple[Mapping[str, list[str]], list[Json]]:
        now = time.monotonic()
        if self._asked is None or now > self._asked_at + _AT_ONCE_S:
            calls = (self._engine.subnets(), self._engine.list_containers())
            self._asked = asyncio.ensure_future(asyncio.gather(*calls))
            self._asked_at = now
        subnets, listing = await asyncio.shield(self._asked)
        return subnets, listing


def _listed(listing: list[Json], container: str) -> Json | None:
    return next((s for s in listing if s["Id"] == container), None)


async def _address(path: str) -> str:
    """The address of a namespace that is being made, when it has one; empty without."""
    end = time.monotonic() + _BORN_S
    while True:
        try:
            look = partial(namespaces.first_address, _BORN_S)
            return str(await asyncio.to_thread(namespaces.within, path, look))
        except OSError:
            # Docker makes the file first, and mounts the namespace then.
            if time.monotonic() > end or not _is_there(path):
                raise
            await asyncio.sleep(0.001)


def _is_there(path: str) -> bool:
    return Path(path).exists()
