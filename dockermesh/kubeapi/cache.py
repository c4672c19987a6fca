"""The config store's contents as last seen, and what changed lately: what lists and watches are
served from.

Versions are the store's: one counter for all objects. Invariant: a watch that starts at the version
of a list gets every later change, or is told (410) that it must list again; it never misses one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

HISTORY = 2000
"""Changes that are remembered."""


class Stored(Protocol):
    """A stored object and the number that its next writer has to give."""

    @property
    def resource(self) -> Mapping[str, Any]:
        """The document."""

    @property
    def version(self) -> int:
        """The store's version of it."""

    @property
    def damage(self) -> str:
        """Why the document is not what the store holds; empty if it is."""

    @property
    def is_lost(self) -> bool:
        """Whether only its name is known."""


@dataclass(frozen=True, slots=True)
class Change:
    """One object's change. `before` or `after` is None where it did not exist.

    `version` is what a watcher may resume from after it; `reached` that of the update which brought
    it.
    """

    key: str
    before: Stored | None
    after: Stored | None
    version: int
    reached: int


class ObjectCache:
    """Fed by the store, read by requests; everything on one event loop."""

    def __init__(self, history: int = HISTORY) -> None:
        self._objects: Mapping[str, Stored] = MappingProxyType({})
        self._changes: deque[Change] = deque(maxlen=history)
        self._dropped = 0
        self._oldest = 0
        self._version = 0
        self._changed = asyncio.Event()
        self.is_read = False
        self.is_closed = False

    @property
    def version(self) -> int:
        """The version of the whole."""
        return self._version

    @property
    def oldest(self) -> int:
        """The oldest version that a watch can start from."""
        return self._oldest

    @property
    def objects(self) -> Mapping[str, Stored]:
        """All objects by key."""
        return self._objects

    @property
    def end(self) -> int:
        """The position after the latest change."""
        return self._dropped + len(self._changes)

    def update(self, objects: Mapping[str, Stored], index: int = 0) -> None:
        """New contents; `index` is the store's counter, where it tells it."""
        # Copied, as a store may go on changing the mapping that it published.
        objects = MappingProxyType(dict(objects))
        reached = max(
            self._version, index, max((o.version for o in objects.values()), default=0)
        )
        if not self.is_read or (index and index < self._oldest):
            # What was before the first reading, or before the store was replaced by an older one,
            # is not known.
            self._dropped = self.end
            self._changes.clear()
            self._oldest = reached
        else:
            self._record(objects, reached)

        self._objects, self._version, self.is_read = objects, reached, True
        self._wake()

    def since(self, position: int) -> list[Change] | None:
        """The changes from a position on; None if some of them are forgotten."""
        if position < self._dropped:
            return None
        return [
            self._changes[i]
            for i in range(position - self._dropped, len(self._changes))
        ]

    def position_of(self, version: int) -> int | None:
        """Where a watch from `version` starts; None if that is too long ago."""
        if version < self._oldest:
            return None
        for offset, change in enumerate(self._changes):
            if change.reached > version:
                return self._dropped + offset
        # Nothing has changed since that version.
        return self.end

    async def wait(self) -> None:
        """Until the next update."""
        await self._changed.wait()

    async def wait_for(
        self, key: str, other_than: int, seconds: float
    ) -> Stored | None:
        """The object once its version is another than `other_than` (0: absent). Raises
        TimeoutError.
        """
        async with asyncio.timeout(seconds):
            while self.version_of(key) == other_than:
                await self._changed.wait()
        return self._objects.get(key)

    def version_of(self, key: str) -> int:
        """The version of an object; 0 if it does not exist."""
        found = self._objects.get(key)
        return found.version if found is not None else 0

    def close(self) -> None:
        """End all watches."""
        self.is_closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _record(self, objects: Mapping[str, Stored], reached: int) -> None:
        before = self._objects
        gone = []
        for key, old in before.items():
            new = objects.get(key)
            if new is None or _uid(new) != _uid(old):
                gone.append(key)

        changed = [
            key for key, new in objects.items() if new.version != self.version_of(key)
        ]
        changed.sort(key=lambda key: objects[key].version)
        # Removals come first, at a version before the first change: who resumes after one gets all
        # that follows, and at worst a removal twice.
        first = min((objects[key].version for key in changed), default=reached + 1)
        for key in gone:
            self._append(
                Change(key, before[key], None, max(self._version, first - 1), reached)
            )
        for key in changed:
            known = None if key in gone else before.get(key)
            self._append(
                Change(key, known, objects[key], objects[key].version, reached)
            )

    def _append(self, change: Change) -> None:
        if len(self._changes) == self._changes.maxlen:
            self._dropped += 1
            self._oldest = self._changes[0].reached
        self._changes.append(change)


def _uid(stored: Stored) -> Any:
    metadata = stored.resource.get("metadata")
    return metadata.get("uid") if isinstance(metadata, Mapping) else None
