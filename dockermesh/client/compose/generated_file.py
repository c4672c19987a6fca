"""The generated file of a project, kept in the state home for its engine.

Invariant: what is kept was checked against the Compose specification before.
"""

from __future__ import annotations

from pathlib import Path

from dockermesh.client.compose.engine_record import (
    GENERATED_FILE,
    STATE_FIX,
    folder_of,
    record_of,
    remember,
    state_home,
)
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.runtime.files import PRIVATE, replace_file


def is_kept(engine: LocalEngine, project: str, text: str) -> bool:
    """Whether this is what the last `up` made of the project."""
    file = folder_of(state_home(), record_of(engine, project)) / GENERATED_FILE
    try:
        return file.read_bytes() == text.encode()
    except OSError:
        return False


def keep(engine: LocalEngine, project: str, text: str) -> Path:
    """Write it down. Raises InputError where that is impossible."""
    record = record_of(engine, project)
    folder = folder_of(state_home(), record)
    file = folder / GENERATED_FILE

    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode(), PRIVATE)
        remember(folder, record)
    except OSError as error:
        raise InputError(
            f"the generated project cannot be written: {error.strerror}",
            where=str(file),
            fix=STATE_FIX,
        ) from error

    return file
