"""The part of Consul's API that we use, with types: py-consul has none.

Every method may raise what `errors.FAILURES` lists. An `index` makes a query block until there is
something newer, for `wait` at most; answers to such queries come with their index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Json = Mapping[str, Any]
Indexed = tuple[str, Any]
"""An answer with the index to ask with next; the index is a number in decimal."""


class KeyValues(Protocol):
    """`/v1/kv`."""

    async def get(
        self,
        key: str,
        index: int | None = None,
        recurse: bool = False,
        wait: str | None = None,
        consistency: str | None = None,
        keys: bool = False,
        separator: str = "",
    ) -> Indexed:
        """The pair at `key`, or None; all pairs, or `keys` alone, below it where asked for."""

    async def put(
        self, key: str, value: str, cas: int | None = None, acquire: str | None = None
    ) -> bool:
        """Write; False if the key is not at version `cas`, or the session may not `acquire` it."""

    async def delete(
        self, key: str, recurse: bool | None = None, cas: int | None = None
    ) -> bool:
        """Remove; False if the key is not at version `cas`."""


class Transactions(Protocol):
    """`/v1/txn`."""

    async def put(self, payload: Sequence[Json]) -> Any:
        """Do up to 64 operations, or none."""


class Catalog(Protocol):
    """`/v1/catalog`."""

    async def services(
        self, index: int | None = None, wait: str | None = None
    ) -> Indexed:
        """Names with their tags."""

    async def service(self, service: str) -> Indexed:
        """Instances on all nodes."""

    async def nodes(self, index: int | None = None, wait: str | None = None) -> Indexed:
        """All nodes."""

    async def node(
        self, node: str, index: int | None = None, wait: str | None = None
    ) -> Indexed:
        """A node with its services."""

    async def deregister(self, node: str, service_id: str | None = None) -> bool:
        """Take a service out that no agent puts back."""


class Health(Protocol):
    """`/v1/health`."""

    async def service(
        self, service: str, *, index: int | None = None, wait: str | None = None
    ) -> Indexed:
        """Instances with their nodes and checks."""

    async def state(
        self, name: str, index: int | None = None, wait: str | None = None
    ) -> Indexed:
        """All checks in this state."""


class AgentServices(Protocol):
    """`/v1/agent/service`."""

    async def deregister(self, service_id: str) -> bool:
        """Remove a service of this agent."""


class Agent(Protocol):
    """`/v1/agent`: what was registered at the agent that we talk to."""

    service: AgentServices

    async def services(self) -> dict[str, Any] | None:
        """Services by id."""

    async def checks(self) -> dict[str, Any] | None:
        """Checks by id."""


class Sessions(Protocol):
    """`/v1/session`."""

    async def create(
        self,
        *,
        name: str,
        checks: Sequence[str],
        lock_delay: int,
        behavior: str,
        ttl: int,
    ) -> str:
        """A session's id."""

    async def renew(self, session_id: str) -> Any:
        """The session; an error if it has ended."""

    async def destroy(self, session_id: str) -> bool:
        """End it, which releases what it holds."""
