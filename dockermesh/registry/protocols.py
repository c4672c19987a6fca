"""What the control plane asks of a source of services and of config, whichever it is.

Invariant: nothing here names a source. Every operation that can fail because the source is away
raises `RegistryError`; what follows a source never ends but by cancellation, and never reports data
that it did not get.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from dockermesh.model import Catalog, Workload
from dockermesh.registry.grace import Grace

Publish = Callable[[Catalog], None]
Tls = Callable[[], ssl.SSLContext]
"""What proxies are asked for their health with, where they take no plaintext."""


@dataclass(frozen=True, slots=True)
class StoredResource:
    """One resource as it is stored. `version` is the number to give to `put` and `delete`.

    `damage` says why the store's content is not used: `resource` is then the last good one. If
    `is_lost`, none is known, and `resource` only says what it was.
    """

    key: str
    resource: Mapping[str, Any]
    version: int
    damage: str = ""
    is_lost: bool = False


@dataclass(frozen=True, slots=True)
class Sealed:
    """A text and its version; no text and version 0 when there is none."""

    text: str = ""
    version: int = 0


class Registry(Protocol):
    """Where services and workloads come from."""

    async def run(self, publish: Publish) -> None:
        """Follow the source until cancelled, handing each new catalog to `publish`.

        Nothing is published before everything was read once, so that a start never takes anything
        away. What did not change is the same object in the next catalog.
        """


class ConfigStore(Protocol):
    """Where resources are kept, by keys `<group>/<kind>/<namespace>/<name>`; tokens are, too."""

    @property
    def problem(self) -> str:
        """Why the contents are not what the store says, or may be out of date; else empty."""

    @property
    def index(self) -> int:
        """The version of the whole; it grows with every change, removals too."""

    async def follow(
        self, publish: Callable[[Mapping[str, StoredResource]], None]
    ) -> None:
        """Publish everything at first and after every change, until cancelled. What did not change
        is the same object.
        """

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        """Write; False if it is not at `version` any more (0: must not exist, None: whatever is
        there).
        """

    async def delete(self, key: str, version: int | None = None) -> bool:
        """Remove; False if it is not at `version` any more. Removing what is not there succeeds."""

    async def replace(
        self, changes: Mapping[str, tuple[int, Mapping[str, Any] | None]]
    ) -> bool:
        """Write (None: remove) all at once, if each is at its version; False, and nothing done, if
        one is not.
        """

    async def close(self) -> None:
        """Close the connections."""


class Documents(Protocol):
    """JSON documents by path, written once: the config's history, and how far a rotation is."""

    async def read(self) -> dict[str, Any]:
        """All documents by path; what is no JSON is left out."""

    async def folders(self) -> list[str]:
        """The first parts of all paths."""

    async def create(self, path: str, document: Mapping[str, Any]) -> bool:
        """Keep a document; False if there is one at this path already."""

    async def remove(self, folder: str) -> None:
        """Remove every document whose path begins with this part."""

    async def close(self) -> None:
        """Close the connections."""


class SealedStore(Protocol):
    """One sealed text that all control planes share: the CA's material."""

    where: str
    """Where it is, for messages."""

    grace: Grace
    """How long it is waited for at a start, before what is known of it is used."""

    async def read(self) -> Sealed:
        """The text as it is now, by no means an older one: that could make a second CA."""

    async def write(self, text: str, version: int) -> bool:
        """Write the text; False if it is not at `version` any more (0: there must be none)."""

    async def follow(self, publish: Callable[[Sealed], None]) -> None:
        """Publish the text now and after every change, until cancelled."""

    async def close(self) -> None:
        """Close the connections."""


class JoinedWorkloads(Protocol):
    """Takes in processes outside Docker."""

    async def add(self, workload: Workload, ports: Mapping[int, str]) -> Workload:
        """Take a workload in, under the first free name of its service; `ports` are those it
        serves, with their protocols.
        """

    async def names(self) -> set[str]:
        """The names of all whose records are there."""

    async def restore(self, workload: Workload) -> None:
        """Write the record and the endpoints of a workload that `add` gave a name again."""

    async def remove(self, workload: Workload) -> None:
        """Take a workload's record and endpoints away."""


@dataclass(slots=True)
class Healed:
    """How many containers a registrar in this process healed, by role and by what it did."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, role: str, verb: str) -> None:
        """One more."""
        self.counts[role, verb] += 1


class Backend(Protocol):
    """One source of services, and what is kept in it or beside it."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def missing(self) -> str:
        """What it still waits for, such as an engine to read; empty when it can be followed."""

    @property
    def engine_problem(self) -> str:
        """Why the engine cannot be followed that this process is to read; empty while it can, and
        where there is none.
        """

    @property
    def healed(self) -> Healed:
        """What the registrar in this process healed; nothing where there is none."""

    @property
    def config(self) -> ConfigStore:
        """Istio resources and Secrets."""

    @property
    def tokens(self) -> ConfigStore:
        """Join tokens, and digests of revoked ones."""

    @property
    def history(self) -> Documents:
        """Who changed what of the config."""

    @property
    def sealed(self) -> SealedStore | None:
        """The CA, sealed, for several control planes; None: it is kept on this host alone."""

    @property
    def rotation(self) -> Documents | None:
        """What control planes tell each other in a root rotation; None: there is one alone."""

    @property
    def joined(self) -> JoinedWorkloads | None:
        """Takes in processes outside Docker; None where nobody can join."""

    def registry(self, tls: Tls) -> Registry:
        """The source of catalogs; `tls` is for health checks."""

    def registrar(self, tls: Tls) -> Coroutine[Any, Any, None] | None:
        """This host's registrar, to be run in this process; None where there is none to be run."""
