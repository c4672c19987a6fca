"""The config's history in a folder of JSON files, for a mesh without Consul. One process owns the
folder.

Invariant: a document is there whole or not at all.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dockermesh.errors import RegistryError
from dockermesh.runtime.files import replace_file


class FolderDocuments:
    """`Documents` on files `<folder>/<rest of the path, with ~ for />.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def read(self) -> dict[str, Any]:
        """All documents by path; what is no JSON is left out."""
        found = {}
        for file in sorted(self._folder.glob("*/*.json")):
            try:
                found[f"{file.parent.name}/{file.stem.replace('~', '/')}"] = json.loads(
                    file.read_text()
                )
            except (OSError, ValueError, RecursionError):
                continue
        return found

    async def folders(self) -> list[str]:
        """The first parts of all paths."""
        return (
            [entry.name for entry in self._folder.iterdir()]
            if self._folder.is_dir()
            else []
        )

    async def create(self, path: str, document: Mapping[str, Any]) -> bool:
        """Keep a document; False if there is one at this path already. Raises RegistryError if it
        cannot be saved.
        """
        folder, _, rest = path.partition("/")
        file = self._folder / folder / f"{rest.replace('/', '~')}.json"
        # Written once: two changes must not share a number.
        if file.exists():
            return False
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(file, json.dumps(document).encode())
        except OSError as error:
            raise RegistryError(
                f"cannot be saved: {error.strerror}", where=str(file)
            ) from error
        return True

    async def remove(self, folder: str) -> None:
        """Remove every document in a folder."""
        shutil.rmtree(self._folder / folder, ignore_errors=True)

    async def close(self) -> None:
        """Nothing is open."""
