"""What control planes tell each other while a root is rotated: whose proxies have taken the step.

Each knows its own proxies alone. While a rotation is under way it writes the names of those that
have confirmed the present step since its last document, and of those that it waits for: at most one
document per `_TELL_S`, and none where nothing is new. At any other time nothing is written, and
nothing is read but for `ca status` and a step.

Invariant: what is told was so; a proxy does not go back behind a step, so it stays so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dockermesh.ca import Material, Phase
from dockermesh.errors import RegistryError
from dockermesh.registry import Documents

log = structlog.get_logger(__name__)
_TELL_S = 1.0
_CONFIRMED, _LATE = "confirmed", "late"


@dataclass(frozen=True, slots=True)
class Taken:
    """The proxies that have taken the present step, and those connected that have not."""

    confirmed: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()


class Rotation:
    """This control plane's part. Without `documents` it is the only one."""

    def __init__(
        self,
        documents: Documents | None,
        material: Callable[[], Material],
        taken: Callable[[], Taken],
    ) -> None:
        """`taken` tells of the proxies that are connected here."""
        self._documents = documents
        self._material = material
        self._taken = taken
        self._replica = secrets.token_hex(4)
        self._generation = 0
        self._told = Taken()
        self._written = 0
        self._problem = ""
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Other material is in force."""
        self._changed.set()

    async def others(self) -> Taken:
        """The proxies that any control plane has told of. Raises RegistryError."""
        material = self._material()
        if self._documents is None or material.phase is Phase.STABLE:
            return Taken()
        return _joined(await self._documents.read(), f"{material.generation}/")

    async def begin(self) -> None:
        """Forget what was told in earlier rotations. Raises RegistryError."""
        if self._documents is None:
            return
        # Of this generation at most: another control plane may have taken the step just now.
        last = self._material().generation
        for folder in await self._documents.folders():
            if not folder.isdigit() or int(folder) <= last:
                await self._documents.remove(folder)

    async def run(self) -> None:
        """Tell the others, until cancelled."""
        while True:
            self._changed.clear()
            if self._documents is None or self._material().phase is Phase.STABLE:
                await self._changed.wait()
                continue
            try:
                await self._tell(self._documents)
                self._problem = ""
            except RegistryError as error:
                if self._problem != error.what:
                    log.warning("other replicas are not told", reason=error.what)
                self._problem = error.what
            await asyncio.sleep(_TELL_S)

    async def _tell(self, documents: Documents) -> None:
        generation = self._material().generation
        if generation != self._generation:
            self._generation, self._told = generation, Taken()
        taken = self._taken()
        fresh = taken.confirmed - self._told.confirmed
        if not fresh and taken.late == self._told.late:
            return

        # A name of its own each time: if only the answer is lost, the next one says it again.
        self._written += 1
        path = f"{generation}/{self._replica}-{self._written}"
        document = {_CONFIRMED: sorted(fresh), _LATE: sorted(taken.late)}
        await documents.create(path, document)
        self._told = Taken(self._told.confirmed | fresh, taken.late)

    async def close(self) -> None:
        """Close the connections."""
        if self._documents is not None:
            await self._documents.close()


def _joined(documents: Mapping[str, Any], folder: str) -> Taken:
    """What all documents of a folder say together; who is late, a replica's last one tells."""
    confirmed: set[str] = set()
    last: dict[str, tuple[int, list[str]]] = {}
    for path, document in documents.items():
        replica, _, number = path.removeprefix(folder).rpartition("-")
        if not path.startswith(folder) or not number.isdigit():
            continue
        confirmed.update(_names(document, _CONFIRMED))
        told = int(number), _names(document, _LATE)
        last[replica] = max(last.get(replica, (0, [])), told)
    late = _union(names for _, names in last.values())
    return Taken(frozenset(confirmed), late - confirmed)


def _union(parts: Iterable[Iterable[str]]) -> frozenset[str]:
    return frozenset(name for part in parts for name in part)


def _names(document: object, field: str) -> list[str]:
    names = document.get(field) if isinstance(document, dict) else None
    return [n for n in names if isinstance(n, str)] if isinstance(names, list) else []
