"""Writes to the config store: compare-and-set, one at a time per object, and read back before the
client is answered.

Invariant: a write is computed from the very version that it replaces, so two writers never lose an
update; after a success, this server's lists and gets show it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from dockermesh.errors import RegistryError
from dockermesh.kubeapi.cache import ObjectCache, Stored
from dockermesh.kubeapi.history import Actor, History
from dockermesh.kubeapi.status import StatusError, Target, conflict, unavailable
from dockermesh.registry import ConfigStore

_ATTEMPTS = 10
READ_BACK_S = 10.0


@dataclass(frozen=True, slots=True)
class Written:
    """An object after a write. `created` says that it was not there before; `version` 0: it is not
    stored (dry run).

    `is_change` says that something was written.
    """

    resource: Mapping[str, Any]
    version: int
    created: bool = False
    is_change: bool = False
    damage: str = ""
    is_lost: bool = False


Compute = Callable[[Stored | None], Mapping[str, Any] | None]
"""The new document (None: remove) from the current object; raises StatusError to refuse."""


class Writer:
    """Writes objects."""

    def __init__(
        self,
        store: ConfigStore,
        cache: ObjectCache,
        history: History | None = None,
        *,
        read_back_s: float = READ_BACK_S,
    ) -> None:
        self._store = store
        self._cache = cache
        self._history = history
        self._read_back_s = read_back_s
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def write(
        self,
        key: str,
        target: Target,
        compute: Compute,
        by: Actor,
        *,
        dry_run: bool = False,
    ) -> Written:
        """Replace the object by what `compute` makes of it, in the name of `by`. Raises
        StatusError.
        """
        # Writes through this server queue up instead of failing each other.
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            # Another control plane may write the same object.
            for _ in range(_ATTEMPTS):
                current = self._cache.objects.get(key)
                document = compute(current)
                if document is None:
                    done = await self._remove(key, current, dry_run)
                else:
                    done = await self._put(key, current, document, dry_run)
                if done is not None:
                    if done.is_change:
                        await self._note(by, key, current, document)
                    return done
                await self._catch_up(key, current)

        raise conflict(target)

    async def write_all(
        self,
        changes: Mapping[str, tuple[Stored | None, Mapping[str, Any] | None]],
        by: Actor,
    ) -> None:
        """Replace (None: remove) objects, each from the state that it is in, as one change. Raises
        StatusError.
        """
        versions = {
            key: old.version if old is not None else 0
            for key, (old, _) in changes.items()
        }
        try:
            done = await self._store.replace(
                {key: (versions[key], new) for key, (_, new) in changes.items()}
            )
        except RegistryError as error:
            raise unavailable(_unwritten(error)) from error

        if not done:
            raise StatusError(
                409,
                "Conflict",
                "the config has been changed meanwhile; nothing was written, try again",
            )

        # One rollback is one entry of the history, however many objects it changes.
        one_change = replace(by, session=by.session or uuid.uuid4().hex)
        for key, (old, new) in changes.items():
            await self._seen(key, versions[key])
            await self._note(one_change, key, old, new)

    async def _note(
        self,
        by: Actor,
        key: str,
        current: Stored | None,
        document: Mapping[str, Any] | None,
    ) -> None:
        if self._history is not None:
            await self._history.record(
                by, key, current.resource if current is not None else None, document
            )

    async def _put(
        self,
        key: str,
        current: Stored | None,
        document: Mapping[str, Any],
        dry_run: bool,
    ) -> Written | None:
        version = current.version if current is not None else 0
        created = current is None
        # A write that changes nothing is none: no watcher wakes up, and the version stays. One over
        # a damaged value repairs it.
        is_same = (
            current is not None and current.resource == document and not current.damage
        )
        if dry_run or is_same:
            return Written(document, version, created)

        try:
            if not await self._store.put(key, document, version):
                return None
        except RegistryError as error:
            raise unavailable(_unwritten(error)) from error

        stored = await self._seen(key, version)
        return (
            Written(document, self._cache.version, created, is_change=True)
            if stored is None
            else Written(stored.resource, stored.version, created, is_change=True)
        )

    async def _remove(
        self, key: str, current: Stored | None, dry_run: bool
    ) -> Written | None:
        if current is None:
            return Written({}, 0)
        if not dry_run:
            try:
                if not await self._store.delete(key, current.version):
                    return None
            except RegistryError as error:
                raise unavailable(_unwritten(error)) from error
            await self._seen(key, current.version)
        return Written(current.resource, current.version, is_change=not dry_run)

    async def _seen(self, key: str, before: int) -> Stored | None:
        try:
            return await self._cache.wait_for(key, before, self._read_back_s)
        except TimeoutError as error:
            raise StatusError(
                504,
                "Timeout",
                "the change was written, but the store does not show it yet; get the object to"
                " see it",
            ) from error

    async def _catch_up(self, key: str, current: Stored | None) -> None:
        """Wait for what another server wrote."""
        before = current.version if current is not None else 0
        try:
            await self._cache.wait_for(key, before, self._read_back_s)
        except TimeoutError as error:
            raise unavailable(
                "the config store refuses the change and does not show a newer version"
            ) from error


def _unwritten(error: RegistryError) -> str:
    return f"the config store did not confirm the change: {error.what}"
