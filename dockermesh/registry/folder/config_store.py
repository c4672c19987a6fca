"""Istio resources in a folder of JSON files: the config store of a mesh without Consul.

One process owns the folder. A file is replaced in one step, so that a crash leaves the old resource
or the new one. Versions are kept in the files and never go back, so that a writer from before a
restart is still found out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from dockermesh.errors import RegistryError
from dockermesh.registry.damaged import damage_sentence, lost_resource
from dockermesh.registry.protocols import StoredResource
from dockermesh.runtime.files import replace_file

log = structlog.get_logger(__name__)
_VERSION = "$version"
"""The field of a file that holds the resource's version; no resource has one of this name."""


class FolderConfigStore:
    """A `ConfigStore` on files `<group>~<kind>~<namespace>~<name>.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, StoredResource] = {}
        # Later than any version before a restart, whatever became of the files.
        self._version = time.time_ns() // 1_000_000
        self._changed = asyncio.Event()

    @property
    def problem(self) -> str:
        """Which files cannot be read; empty if all can."""
        return damage_sentence(self._known.values())

    @property
    def index(self) -> int:
        """The version of the whole; it grows with every change, removals too."""
        return self._version

    async def follow(
        self, publish: Callable[[Mapping[str, StoredResource]], None]
    ) -> None:
        """Publish everything now and after every write, until cancelled."""
        self._load()
        while True:
            self._changed.clear()
            publish(MappingProxyType(dict(self._known)))
            await self._changed.wait()

    async def put(
        self, key: str, resource: Mapping[str, Any], version: int | None = None
    ) -> bool:
        """Write a resource; False if it is not at `version` any more."""
        if not self._is_at(key, version):
            return False
        file = self._file(key)
        text = json.dumps({_VERSION: self._version + 1, **resource})
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(file, text.encode())
        except OSError as error:
            raise RegistryError(
                f"cannot be saved: {error.strerror}", where=str(file)
            ) from error
        self._version += 1
        self._known[key] = StoredResource(key, dict(resource), self._version)
        self._changed.set()
        return True

    async def delete(self, key: str, version: int | None = None) -> bool:
        """Remove a resource; False if it is not at `version` any more."""
        if not self._is_at(key, version):
            return False
        file = self._file(key)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise RegistryError(
                f"cannot be removed: {error.strerror}", where=str(file)
            ) from error
        # A removal is a change, too: watches resume from this number.
        if self._known.pop(key, None) is not None:
            self._version += 1
            self._changed.set()
        return True

    async def replace(
        self, changes: Mapping[str, tuple[int, Mapping[str, Any] | None]]
    ) -> bool:
        """Write (None: remove) resources by key, each from this version on; False: one is not at
        it, nothing done.
        """
        if not all(self._is_at(key, version) for key, (version, _) in changes.items()):
            return False
        for key, (version, resource) in changes.items():
            await (
                self.delete(key, version)
                if resource is None
                else self.put(key, resource, version)
            )
        return True

    async def close(self) -> None:
        """Nothing is open."""

    def _is_at(self, key: str, version: int | None) -> bool:
        known = self._known.get(key)
        return version is None or version == (known.version if known else 0)

    def _file(self, key: str) -> Path:
        return self._folder / f"{key.replace('/', '~')}.json"

    def _load(self) -> None:
        for file in sorted(self._folder.glob("*.json")):
            key = file.stem.replace("~", "/")
            try:
                resource = json.loads(file.read_text())
                if not isinstance(resource, dict):
                    raise ValueError("not a JSON object")
            except (OSError, ValueError, RecursionError) as error:
                log.warning(
                    "a stored resource cannot be read",
                    file=str(file),
                    reason=str(error),
                )
                # Listed all the same, so that somebody sees it, and replaces or deletes it.
                self._version += 1
                self._known[key] = lost_resource(key, self._version, str(error))
                continue

            # Files that somebody put there by hand have none.
            version = resource.pop(_VERSION, None)
            if not isinstance(version, int):
                self._version = version = self._version + 1

            self._version = max(self._version, version)
            self._known[key] = StoredResource(key, resource, version)
