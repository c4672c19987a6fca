"""Whatever becomes of objects in files, no analyzer breaks on them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dockermesh.analysis.context import Context
from dockermesh.analysis.reading import read_items
from dockermesh.analysis.registry import analyze

CASES = Path(__file__).parents[1] / "golden" / "analysis"
FILES = [
    list(yaml.safe_load_all(path.read_text()))
    for path in sorted(CASES.glob("*.in.yaml"))
]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else ()
    )
    for key, child in children:
        found.extend(places(child, (*path, key)))
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mangled_objects_are_analyzed(data: st.DataObject) -> None:
    documents = copy.deepcopy(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        *path, last = data.draw(
            st.sampled_from([place for place in places(documents) if place])
        )
        node: Any = documents
        for key in path:
            node = node[key]
        node[last] = data.draw(junk)
    items, findings = read_items([("f", yaml.safe_dump_all(documents))], "default")
    for finding in analyze(Context(items, findings=findings)):
        assert finding.code != "IST0001", finding
