"""Istio resources in Consul's KV, below `dockermesh/config/`: followed, and written with
check-and-set.

Invariants: a resource whose ModifyIndex did not change stays the same object, so readers compare by
identity. What was accepted stays in force until somebody changes or removes it: a store that lost
its data, and a value that was damaged, are brought back to it (`config_guard`).
"""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import structlog

from dockermesh.consul.client import ConsulClient
from dockermesh.consul.errors import FAILURES, ConsulError, is_conflict, registry_error
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import RegistryError
from dockermesh.model.contract import KEY_CONFIG
from dockermesh.registry.consul.config_copy import ConfigCopy
from dockermesh.registry.consul.config_guard import (
    Change,
    Marker,
    Standing,
    judge,
    read_marker,
    standing,
)
from dockermesh.registry.consul.pacing import retries
from dockermesh.registry.consul.transactions import (
    Operation,
    is_large,
    operation,
    transactions,
    write_text,
)
from dockermesh.registry.consul.values import Check, Reading, accept_all, read_values
from dockermesh.registry.consul.watch import ATTENTIVE, OVERDUE_S, Outages, Watch
from dockermesh.registry.damaged import damage_sentence
from dockermesh.registry.grace import Grace
from dockermesh.registry.protocols import StoredResource
from dockermesh.runtime.threads import done_in_thread

_COPIED = "The copy on this host is in force."
MARKER = ".store"
"""The key of the marker, beside those of the resources: one reading has both."""
# Seconds that a write waits for a store that is being brought back.
_MENDED_WITHIN = 5.0
# Seconds until a copy that could not be written is tried again.
_SAVE_AGAIN = 2.0
_WATCH = "the config"
# Seconds between two looks whether a Consul that is slow is away.
_LOOK = 0.5
_log = structlog.get_logger(__name__)


class ConsulConfigStore:
    """Keys are `<group>/<kind>/<namespace>/<name>`, without the prefix; another prefix keeps other
    documents. `copy` is what is known at the start, and published where Consul is away for longer
    than `grace`; `check` says what is wrong with a document.
    """

    def __init__(
        self,
        settings: ConsulSettings,
        prefix: str = KEY_CONFIG,
        *,
        copy: ConfigCopy | None = None,
        check: Check = accept_all,
        grace: Grace | None = None,
    ) -> None:
        self._settings = settings
        self._prefix = prefix
        self._copy = copy
        self._check = check
        self._grace = grace or Grace()
        self._is_copied = False
        self._client: ConsulClient | None = None
        self._outages = Outages(settings.address, lambda: None)
        self._publish: Callable[[Mapping[str, StoredResource]], None] | None = None

        self._index = 0
        self._read_backs = 0
        self._read = asyncio.Event()
        self._known: dict[str, StoredResource] = {}
        self._marker: Marker | None = None
        self._standing = Standing.NEW

        self._found: Marker | None = None
        self._changes: Mapping[str, Change] = {}
        self._to_mend = asyncio.Event()
        self._mended = asyncio.Event()
        self._unmended = ""
        self._to_save = asyncio.Event()

    @property
    def problem(self) -> str:
        """Why the contents are not what the store says, or may be out of date; else empty."""
        sentences = (
            self._outages.sentence,
            _COPIED if self._is_copied else "",
            self._doubt,
            damage_sentence(self._known.values()),
            self._copy.problem if self._copy is not None else "",
        )
        return " ".join(filter(None, sentences))

    @property
    def index(self) -> int:
        """Consul's index of what was published last; it grows with every change, removals too."""
        return self._index

    # following
    # ----------------------------------------------------------------------------------------------

    async def follow(
        self, publish: Callable[[Mapping[str, StoredResource]], None]
    ) -> None:
        """Follow the store until cancelled; `publish` gets all resources at first and after every
        change.
        """

        async def fetch(index: int | None) -> Any:
            begun = self._read_backs
            at, items = await client.kv.get(
                self._prefix, index=index, wait=ATTENTIVE, recurse=True
            )
            # One that was under way while a write was read back may be older than what is known.
            # Else a lower index is what a Consul says that began to count anew.
            is_less = int(at) < self._index
            if is_less and self._read_backs == begun:
                # Deleted with a longer list of keys, a prefix has the index of when it was empty
                # before: the watch may have seen that one, and would take it for no change.
                self._deliver(int(at), items)
            return at, None if is_less else (int(at), items)

        client = self._connect()
        self._publish = publish
        if self._copy is not None and self._marker is None:
            self._marker, self._known = await asyncio.to_thread(self._copy.load)

        watch = Watch(_WATCH, fetch, self._take, self._outages, overdue=OVERDUE_S)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(watch.run())
                tasks.create_task(self._keep_mending())
                tasks.create_task(self._keep_saving())
                tasks.create_task(self._use_copy())
        finally:
            self._publish = None
            if self._to_save.is_set():
                self._save()
            await self.close()

    async def _use_copy(self) -> None:
        """Publish what was accepted last, if Consul has been away for the whole grace."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._read.wait(), self._grace.left)
        # Without a marker nothing is known, which is not the same as nothing.
        while not self._read.is_set() and self._marker is not None:
            if self._outages.is_failing(_WATCH) and self._publish is not None:
                _log.warning("Consul is away; its copy is in force", keys=self._prefix)
                self._is_copied = True
                self._publish(MappingProxyType(self._known))
                return
            await asyncio.sleep(_LOOK)

    def _take(self, answer: tuple[int, Any] | None) -> None:
        # The watch hands over what it fetched a moment later, in which a write may have been read
        # back: the answer of before would look like a store that was taken back.
        if answer is not None and answer[0] >= self._index:
            self._deliver(*answer)

    def _deliver(self, index: int, items: Any) -> None:
        before, first = self._known, not self._read.is_set()
        marker, values = _parted(items, self._prefix)
        how = standing(self._marker, marker)
        reading = read_values(
            values,
            self._known,
            self._check,
            are_versions_known=how is Standing.CURRENT,
        )
        self._judge(how, marker, reading)

        self._index = index
        self._is_copied = False
        self._read.set()
        if self._publish is not None and (first or self._known != before):
            self._publish(MappingProxyType(self._known))

    def _judge(self, how: Standing, marker: Marker | None, reading: Reading) -> None:
        if how is not self._standing and how in (Standing.LOST, Standing.TAKEN_BACK):
            _log.warning(
                "Consul lost the config or has an older one; the last accepted stays in"
                " force and is written back",
                keys=self._prefix,
                store=how.value,
            )

        judgement = judge(how, self._known, reading.resources)
        is_saved = marker == self._marker and judgement.in_force == self._known
        self._standing = how
        self._known = dict(judgement.in_force)
        self._found = marker
        self._changes = {**judgement.changes, **reading.repairs}

        if how is Standing.CURRENT:
            self._marker = marker
            # A write is read back, and then seen by the watch again.
            if not is_saved:
                self._to_save.set()
        if how is Standing.CURRENT and not self._changes:
            self._unmended = ""
            self._mended.set()
        else:
            self._mended.clear()
            self._to_mend.set()

    # bringing back
    # ----------------------------------------------------------------------------------------------

    async def _keep_mending(self) -> None:
        """Write back what the store lost, until it says so."""
        waits = retries()
        while True:
            await self._to_mend.wait()
            self._to_mend.clear()
            try:
                await self._mend()
                waits.reset()
            except FAILURES as error:
                self._unmended = f"it cannot be written back ({error})"
                _log.warning("the config is not written back yet", reason=str(error))
                await asyncio.sleep(waits.next())
                self._to_mend.set()

    async def _mend(self) -> None:
        wanted, found, how = self._changes, self._found, self._standing
        operations = [
            operation(self._prefix + key, version, new)
            for key, (version, new) in wanted.items()
        ]

        marker = None if how is Standing.CURRENT else self._next_marker(found, how)
        steps = transactions(operations)
        for step in steps:
            # Last, so that whoever is interrupted begins again; and not alone, or what is lost
            # once more in between would be taken for removed.
            marking = (
                self._marking(marker, found.version if found is not None else 0)
                if marker and step is steps[-1]
                else None
            )
            if not await self._do(step, marking):
                # Somebody else wrote meanwhile: what is left is judged anew.
                await self._read_back()
                return

        if wanted:
            _log.warning("the config was written back", resources=len(wanted))
        there = {key for key, (_, new) in wanted.items() if new is not None}
        await self._read_back(marker, there)

    def _marking(self, marker: Marker, version: int | None) -> Operation:
        """The operation that writes the marker over the one at `version` (None: whatever)."""
        text = marker.text(secrets.token_hex(4))
        return write_text(self._prefix + MARKER, version, text)

    def _next_marker(self, found: Marker | None, how: Standing) -> Marker:
        if self._marker is None:
            return found or Marker(secrets.token_hex(8), 1, 0)
        if how is Standing.LOST and found is not None:
            return found
        return Marker(self._marker.store, self._marker.generation + 1, 0)

    async def _read_back(
        self, marker: Marker | None = None, there: Collection[str] = ()
    ) -> None:
        """Take what the store says now; `marker` was just written, beside what is to be `there`."""
        begun = self._read_backs
        index, items = await self._connect().kv.get(self._prefix, recurse=True)
        # Of several writers at once, the last answer need not be the newest.
        if self._read_backs != begun and int(index) < self._index:
            return
        self._read_backs += 1
        found = {item["Key"].removeprefix(self._prefix) for item in items or ()}
        # What was lost once more between two steps is not there, and the store not current.
        if marker is not None and found.issuperset(there):
            # Consul counts anew: any version of this generation is a later one. Not known before
            # this answer: to one from before the write, it would be lost.
            self._marker = Marker(marker.store, marker.generation, 0)
        self._deliver(int(index), items)

    @property
    def _doubt(self) -> str:
        is_lost = self._standing in (Standing.LOST, Standing.TAKEN_BACK)
        if is_lost:
            lost = (
                "lost the config"
                if self._standing is Standing.LOST
                else "has an old config"
            )
            return (
                f"Consul {lost}; the last accepted one is in force,"
                f" {self._unmended or 'and is written back'}."
            )
        return f"Consul's config: {self._unmended}." if self._unmended else ""

    async def _keep_saving(self) -> None:
        """Keep the copy on the disk up to date."""
        while True:
            await self._to_save.wait()
            self._to_save.clear()
            await done_in_thread(self._save)
            if self._copy is not None and self._copy.problem:
                # A disk that has room again tells nobody.
                self._to_save.set()
                await asyncio.sleep(_SAVE_AGAIN)

    def _save(self) -> None:
        if self._copy is not None and self._marker is not None:
            self._copy.save(self._marker, self._known)

    # writing
    # ----------------------------------------------------------------------------------------------

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        """Write a resource; False if it is not at `version` any more (0: must not exist; None:
        whatever is there).

        Raises RegistryError if Consul cannot be reached or refuses.
        """
        return await self._write(
            key, [operation(self._prefix + key, version, resource)]
        )

    async def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a resource; False if it is not at `version` any more. Removing what is not there
        succeeds.

        Raises RegistryError if Consul cannot be reached or refuses.
        """
        return await self._write(key, [operation(self._prefix + key, version, None)])

    async def replace(
        self, changes: Mapping[str, tuple[int, Mapping[str, Any] | None]]
    ) -> bool:
        """Write (None: remove) resources by key, each from this version on; False and nothing done
        if one is not at it.

        Consul does up to 63, and 300 kB, in one step; more than that are several steps. Raises
        RegistryError if Consul cannot be reached or refuses, also if that left only some of the
        steps done.
        """
        operations = [
            operation(self._prefix + key, version, new)
            for key, (version, new) in changes.items()
        ]
        done = 0
        for step in transactions(operations):
            if not await self._write(self._prefix, step):
                if not done:
                    return False
                raise RegistryError(
                    f"only {done} of {len(operations)} resources were written: others changed"
                    " meanwhile",
                    fix="try again to write the rest",
                )
            done += len(step)

        return True

    async def _write(self, key: str, operations: list[Operation]) -> bool:
        await self._until_mended()
        try:
            done = await self._do(operations, self._touching())
        except FAILURES as error:
            address = self._settings.address
            raise registry_error(
                error, address, "a change of the config", where=key
            ) from error
        if self._read.is_set():
            # At once, as the watch may be pacing itself, and writers wait until their change is
            # seen. If it fails, the watch brings the change.
            with suppress(*FAILURES):
                await self._read_back()
        return done

    async def _until_mended(self) -> None:
        """Writes wait for the store to be as it was: what brings it back would undo them."""
        if not self._read.is_set() or self._standing is Standing.CURRENT:
            return
        try:
            async with asyncio.timeout(_MENDED_WITHIN):
                await self._mended.wait()
        except TimeoutError as error:
            raise RegistryError(
                self._doubt or "the store is not marked as ours yet",
                where=self._prefix,
                fix="see that Consul runs and takes writes, then try again",
            ) from error

    def _touching(self) -> Operation | None:
        """The operation that moves the marker on, where the store is current."""
        if self._marker is None or self._standing is not Standing.CURRENT:
            return None
        return self._marking(self._marker, None)

    async def _do(self, operations: list[Operation], marking: Operation | None) -> bool:
        """Do the operations and mark the store; False, and nothing done, if one is at another
        version.
        """
        if len(operations) == 1 and is_large(operations[0]):
            if not await self._put_alone(operations[0]["KV"]):
                return False
            operations = []

        both = [*operations, *([marking] if marking else [])]
        if not both:
            return True
        try:
            await self._connect().txn.put(both)
        except ConsulError as error:
            if is_conflict(error):
                return False
            raise
        return True

    async def _put_alone(self, operation: dict[str, Any]) -> bool:
        value = base64.b64decode(operation["Value"]).decode()
        kv = self._connect().kv
        return await kv.put(operation["Key"], value, cas=operation.get("Index"))

    async def close(self) -> None:
        """Close the connections; `put` and `delete` open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def _connect(self) -> ConsulClient:
        if self._client is None:
            self._client = ConsulClient(self._settings)
        return self._client


def _parted(items: Any, prefix: str) -> tuple[Marker | None, list[tuple[str, Any]]]:
    """The marker, and the values of all other keys without the prefix."""
    marker, values = None, []
    for item in items or ():
        key = item["Key"].removeprefix(prefix)
        if key == MARKER:
            marker = read_marker(item.get("Value"), int(item["ModifyIndex"]))
        else:
            values.append((key, item))
    return marker, values
