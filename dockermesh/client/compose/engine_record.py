"""Which engine each project was brought up on, beside its generated file in the state home.

    <state home>/<project>/compose.yaml, engine.json          the usual case
    <state home>/<project>@<digest of engine>/...             the same name on further engines

Invariant: a project's file is never overwritten by one of the same name on another engine. `@` is
in no project's name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from dockermesh.client.compose.leftovers import ANONYMOUS_FILE
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.model.contract import LABEL_ROLE

_FILE = "engine.json"
GENERATED_FILE = "compose.yaml"
"""The project as `up` made it."""
SETTLED_FILE = "settled.json"
"""What the last `up` left running."""
STATE_FIX = "name a folder that you may write: XDG_STATE_HOME=/path (or HOME)"


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """An engine that a project was brought up on: its ID, address, and the options that lead to
    it.
    """

    project: str
    engine: str
    url: str
    selector: str

    def how(self, verb: str) -> str:
        """The command that does it there."""
        return f"dockermesh {self.selector} {verb}"

    def is_same(self, other: EngineRecord) -> bool:
        """Whether both are one engine. One that took another's place at an address is the only one
        there: whoever had that address before is gone.
        """
        return self.engine == other.engine or self.url == other.url


def state_home() -> Path:
    """Where generated projects are kept: $XDG_STATE_HOME/dockermesh.

    Raises InputError for a user without a home.
    """
    try:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError as error:
        raise InputError(
            "this user has no home folder", where="HOME", fix=STATE_FIX
        ) from error
    return Path(base) / "dockermesh"


def record_of(engine: LocalEngine, project: str) -> EngineRecord:
    """What is to be written down of a project on this engine."""
    address = engine.address
    return EngineRecord(project, engine.identity(), address.url, address.selector)


def folder_of(home: Path, record: EngineRecord) -> Path:
    """Where a project's files are, or are to be, for its engine."""
    digest = hashlib.sha256(record.engine.encode()).hexdigest()[:12]
    usual, own = home / record.project, home / f"{record.project}@{digest}"
    known = _read(usual)
    is_free = known is None or known.is_same(record)
    return usual if is_free and not own.is_dir() else own


def remember(folder: Path, record: EngineRecord) -> None:
    """Write down what is in a folder of `folder_of`. Raises OSError."""
    file = folder / _FILE
    # Private before there is anything in it.
    file.touch(mode=0o600)
    file.write_text(json.dumps(asdict(record)) + "\n")


def forget(folder: Path) -> None:
    """Remove what was generated in a folder of `folder_of`. Raises OSError."""
    for name in (GENERATED_FILE, _FILE, ANONYMOUS_FILE, SETTLED_FILE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # what somebody else put there stays
        folder.rmdir()


def elsewhere(home: Path, here: EngineRecord) -> list[EngineRecord]:
    """What was brought up on other engines: the project, or all if none is named."""
    others = (record for record in _all(home) if not record.is_same(here))
    return [record for record in others if here.project in {"", record.project}]


def with_pods(home: Path, here: EngineRecord) -> list[str]:
    """The projects that were brought up on this engine with pods: the one that is named, or all if
    none is.
    """
    found = {r.project for r in _all(home) if r.is_same(here)}
    asked = found if here.project == "" else found & {here.project}
    return sorted(
        name for name in asked if _has_pods(home, replace(here, project=name))
    )


def _has_pods(home: Path, record: EngineRecord) -> bool:
    try:
        text = (folder_of(home, record) / GENERATED_FILE).read_text()
    except (OSError, ValueError):
        return False
    return f"{LABEL_ROLE}: pod" in text


def _all(home: Path) -> Iterator[EngineRecord]:
    try:
        folders = sorted(home.iterdir())
    except OSError:
        return
    for folder in folders:
        record = _read(folder)
        if record is not None:
            yield record


def _read(folder: Path) -> EngineRecord | None:
    try:
        return EngineRecord(**json.loads((folder / _FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
