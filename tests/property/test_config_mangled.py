"""Whatever becomes of a resource, reading it ends with a resource or with findings, never with an
exception.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dockermesh.config.documents import read_document, read_text

CASES = Path(__file__).parents[1] / "golden" / "config"
DOCUMENTS = [
    d
    for path in sorted(CASES.glob("*.in.yaml"))
    for d in yaml.safe_load_all(path.read_text())
]

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
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


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_mangled_resource_is_refused_or_accepted(data: st.DataObject) -> None:
    document = {"root": copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))}
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(
            st.sampled_from([place for place in places(document) if place])
        )
        node: Any = document
        for key in path:
            node = node[key]
        node[last] = data.draw(junk)
    reading = read_document(document["root"])
    assert reading.resources or reading.findings
    for finding in reading.findings:
        assert finding.message and str(finding)


@settings(max_examples=300, deadline=None)
@given(st.text() | st.binary(max_size=200))
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    for finding in read_text(text, "f").findings:
        assert finding.message


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_yaml_with_a_hole_is_read_or_refused(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(sorted(CASES.glob("*.in.yaml")))).read_text()
    start = data.draw(st.integers(0, len(text)))
    reading = read_text(
        text[:start]
        + data.draw(st.text(max_size=5))
        + text[start + data.draw(st.integers(0, 40)) :]
    )
    assert reading.resources or reading.findings
