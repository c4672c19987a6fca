"""Volumes that Compose leaves when containers are removed: those of pods, which are memory and hold
nothing, and the anonymous ones of apps.

Invariant: what keeps data of the app's is removed with `--volumes` alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.inject.names import run_volume
from dockermesh.model.contract import COMPOSE_PROJECT, COMPOSE_VOLUME
from dockermesh.runtime.files import PRIVATE, replace_file

ANONYMOUS_FILE = "anonymous.json"
_ANONYMOUS = re.compile(r"[0-9a-f]{64}")
_OF_PODS = run_volume("-pod")


def remember_anonymous(folder: Path, containers: Iterable[Mapping[str, Any]]) -> None:
    """Write down which anonymous volumes a project's containers have: once those are gone, nothing
    else tells whose the volumes were. Raises OSError.
    """
    file = folder / ANONYMOUS_FILE
    found = set(_remembered(file))
    for container in containers:
        for mount in container.get("Mounts") or ():
            if _ANONYMOUS.fullmatch(str(mount.get("Name") or "")):
                found.add(str(mount["Name"]))
    replace_file(file, json.dumps(sorted(found)).encode(), PRIVATE)


def remove_leftovers(
    engine: LocalEngine, project: str, folder: Path, *, volumes: bool
) -> list[str]:
    """Remove the volumes of a project's pods, and with `volumes` also those that were remembered.
    Returns which were there.
    """
    names = list(_of_pods(engine, project))
    if volumes:
        names += _remembered(folder / ANONYMOUS_FILE)

    removed = []
    for name in names:
        # One that somebody uses stays, whoever that is.
        with suppress(EngineError):
            if engine.remove_volume(name):
                removed.append(name)
    return removed


def _of_pods(engine: LocalEngine, project: str) -> Iterator[str]:
    for volume in engine.volumes([f"{COMPOSE_PROJECT}={project}"]):
        key = str((volume.get("Labels") or {}).get(COMPOSE_VOLUME))
        is_memory = (volume.get("Options") or {}).get("type") == "tmpfs"
        if key.endswith(_OF_PODS) and is_memory:
            yield str(volume["Name"])


def _remembered(file: Path) -> list[str]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return []
    return [str(name) for name in found] if isinstance(found, list) else []
