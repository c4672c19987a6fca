"""Which files of a directory hold resources."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


def resource_files(path: Path) -> list[Path]:
    """The YAML and JSON files below a directory, in order; a path that is no directory is returned
    as it is.
    """
    if not path.is_dir():
        return [path]
    # In order, so that the last of two resources of one name is always the same.
    return sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES and f.is_file())
