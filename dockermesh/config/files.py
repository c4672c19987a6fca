"""Which files of a directory hold resources, and what is in them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from dockermesh.config.loading import MAX_BYTES
from dockermesh.errors import UsageError

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


def resource_files(path: Path) -> list[Path]:
    """The YAML and JSON files below a directory, in order; a path that is no directory is returned
    as it is.
    """
    if not path.is_dir():
        return [path]
    # In order, so that the last of two resources of one name is always the same.
    return sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())


def read_sources(names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the content of each file, of those below directories, and for `-` of standard
    input. Raises UsageError.
    """
    for name in names:
        if name == "-":
            yield "<stdin>", _limited(sys.stdin.buffer.read)
            continue
        for path in resource_files(Path(name)):
            yield str(path), _content(path)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return _limited(file.read)
    except OSError as error:
        raise UsageError(
            f"cannot read: {error.strerror}",
            where=str(path),
            fix="name an existing YAML or JSON file, or -",
        ) from error


def _limited(read: Callable[[int], bytes]) -> bytes:
    """At most one byte more than may be parsed, so that the parser can tell that it is too much."""
    return read(MAX_BYTES + 1)
