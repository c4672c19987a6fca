"""Everything but services in one folder: the base of backends whose source keeps nothing for us."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from dockermesh.registry.folder.config_store import FolderConfigStore
from dockermesh.registry.folder.history_store import FolderDocuments
from dockermesh.registry.protocols import (
    Documents,
    Healed,
    JoinedWorkloads,
    SealedStore,
    Tls,
)


class FolderBackend:
    """A backend that lacks only `name` and `registry`. One process owns the folder."""

    sealed: SealedStore | None = None
    joined: JoinedWorkloads | None = None
    rotation: Documents | None = None
    missing = ""
    engine_problem = ""

    def __init__(self, folder: Path) -> None:
        self.healed = Healed()
        self.config = FolderConfigStore(folder / "config")
        self.tokens = FolderConfigStore(folder / "tokens")
        self.history = FolderDocuments(folder / "history")

    def registrar(self, tls: Tls) -> Coroutine[Any, Any, None] | None:
        """There is nothing that a registrar could write to."""
        return None
