"""No two modules need each other, be it lazily or for their types alone: each can be read, and
moved, without the other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PACKAGES = sorted(
    path.name
    for path in (ROOT / "dockermesh").iterdir()
    if (path / "__init__.py").exists()
)
# Each of its modules stands alone.
UNRELATED = {"runtime"}


def modules(package: str) -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "dockermesh" / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """What a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_modules_import_each_other(package: str) -> None:
    known = modules(package)
    graph = {
        name: {other for other in imported(path) if other in known and other != name}
        for name, path in known.items()
    }
    assert any(graph.values()) == (package not in UNRELATED)
    assert cycle_of(graph) == []


def test_a_cycle_is_found() -> None:
    assert cycle_of({"a": {"b"}, "b": {"c"}, "c": {"b"}}) in (
        ["b", "c", "b"],
        ["c", "b", "c"],
    )
