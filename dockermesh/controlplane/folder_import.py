"""Takes the Istio resources of a folder into the config store, at the control plane's start."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import structlog

from dockermesh.config.documents import Reading, read_text
from dockermesh.config.files import resource_files
from dockermesh.config.resource import Resource
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.importing import key_of, take_over
from dockermesh.kubeapi.status import StatusError
from dockermesh.registry import ConfigStore
from dockermesh.runtime.backoff import Backoff

_NO_NAME = "metadata.name is required: generateName makes a new resource each time"
_AWAY = 503
log = structlog.get_logger(__name__)


async def import_folder(
    folder: Path | None,
    store: ConfigStore,
    objects: ObjectCache,
    history: History,
) -> None:
    """Store every valid resource of the folder; what is refused is logged, and takes nothing else
    with it.
    """
    if folder is None:
        return

    for file, reading in await asyncio.to_thread(_read, folder):
        # What is wrong costs itself alone; the start goes on.
        for finding in (f for f in reading.findings if f.is_error):
            log.error(
                "resource refused",
                file=finding.file,
                line=finding.line,
                reason=finding.message,
            )

        for resource in reading.resources:
            if not resource.document["metadata"].get("name"):
                log.error(
                    "resource refused", file=str(resource.location), reason=_NO_NAME
                )
                continue
            await _take_over(file, resource, store, objects, history)


async def _take_over(
    file: Path,
    resource: Resource[Any],
    store: ConfigStore,
    objects: ObjectCache,
    history: History,
) -> None:
    waits = Backoff(1.0, 10.0)
    while True:
        try:
            await take_over(
                store, objects, key_of(resource), resource.document, history
            )
        except StatusError as failure:
            if failure.code != _AWAY or not store.problem:
                log.error("resource not stored", file=str(file), reason=failure.message)
                return
            # The store is away, and a copy is in force.
            await asyncio.sleep(waits.next())
        else:
            return


def _read(folder: Path) -> list[tuple[Path, Reading]]:
    # A volume that nobody filled is an empty folder, or none.
    files = resource_files(folder) if folder.is_dir() else []
    readings = []
    for file in files:
        try:
            readings.append((file, read_text(file.read_bytes(), str(file))))
        except OSError as error:
            log.error("file not read", file=str(file), reason=error.strerror)
    return readings
