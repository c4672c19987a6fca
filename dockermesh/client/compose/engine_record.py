"""Which engine each project was brought up on, beside its generated file in the state home.

    <state home>/<project>/compose.yaml, engine.json          the usual case
    <state home>/<project>@<digest of engine>/...             the same name on further engines

Invariant: a project's file is never overwritten by one of the same name on another engine. `@` is
in no project's name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from dockermesh.docker.engine import LocalEngine

_FILE = "engine.json"


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
    for name in ("compose.yaml", _FILE):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # what somebody else put there stays
        folder.rmdir()


def elsewhere(home: Path, here: EngineRecord) -> list[EngineRecord]:
    """What was brought up on other engines: the project, or all if none is named."""
    others = (record for record in _all(home) if not record.is_same(here))
    return [record for record in others if here.project in {"", record.project}]


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
