"""What two parts agree on stands in `model/contract.py`, and nowhere else; ARCHITECTURE shows it."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dockermesh.model import contract

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "dockermesh"
MODULES = sorted(
    p for p in PACKAGE.rglob("*.py") if p != PACKAGE / "model" / "contract.py"
)
PORTS = {
    int(e.value) for e in contract.ENTRIES if e.section is contract.Section.PORTS
} - {8080, 8081}
NAMES = {e.value for e in contract.ENTRIES if e.section is not contract.Section.PORTS}
# Also a word of plain language, the product's name, or another thing's in another place.
NOT_DISTINCT = {"dockermesh", "cluster.local"}


def _docstrings(tree: ast.AST) -> set[int]:
    return {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }


def _literals(text: str) -> Iterator[tuple[int, str | int]]:
    tree = ast.parse(text)
    skip = _docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in skip:
            is_number = isinstance(node.value, int) and not isinstance(node.value, bool)
            if is_number or isinstance(node.value, str):
                yield node.lineno, node.value


SHARED = re.compile(
    rf"(?<![\w-])({'|'.join(map(re.escape, sorted([*NAMES - NOT_DISTINCT, *map(str, PORTS)])))})(?![\w-])"
)


def offences(text: str) -> list[str]:
    """Where a module has a literal of its own for what the contract holds. Sentences for people may
    name things.
    """
    found = []
    for line, literal in _literals(text):
        if isinstance(literal, int):
            is_ours = literal in PORTS
        else:
            is_ours = " " not in literal.strip() and SHARED.search(literal) is not None
        if is_ours:
            found.append(f"{line}: {literal!r}")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_other_module_has_a_literal_for_what_parts_share(path: Path) -> None:
    assert not offences(path.read_text()), "import these from dockermesh.model.contract"


@pytest.mark.parametrize(
    "text",
    [
        'ROLE = "dockermesh.io/role"',
        'key = f"dockermesh/workloads/{host}"',
        'os.environ["DOCKERMESH_NETWORK"]',
        'name = "reviews.service.consul"',
        "port = 15012",
        'address = "0.0.0.0:15012"',
    ],
)
def test_such_a_literal_is_found(text: str) -> None:
    assert offences(text)


def test_the_mesh_networks_name_is_said_once() -> None:
    """As a word it is the product's name, too: where that is meant is listed here."""
    said = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(
            literal == contract.MESH_NETWORK
            for _, literal in _literals(path.read_text())
        )
    }
    assert said == {
        "client/mesh/api_client.py",
        "client/compose/engine_record.py",
        "client/mesh/forwarding.py",
        "client/images/downloads.py",
        "client/images/sources.py",
        "controlplane/fetching.py",
        "client/mesh/mesh_client.py",
        "cli/completion.py",
        "cli/main.py",
        "cli/version.py",
        "inject/images.py",
        "kubeapi/openapi.py",
        "registrar/attest.py",
        "registrar/metadata.py",
        "translate/envoy/connection_manager.py",
        "translate/envoy/offered.py",
    }


def test_no_two_entries_of_a_table_are_the_same() -> None:
    shown = [(entry.section, entry.value) for entry in contract.ENTRIES]
    assert len(shown) == len(set(shown))


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "contract_tables", ROOT / "scripts/contract.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_documents_show_what_the_contract_holds() -> None:
    script = _script()
    for name, sections in script.DOCUMENTS.items():
        text = (ROOT / name).read_text()
        assert script.with_tables(text, sections) == text, (
            "run: python scripts/contract.py"
        )
