"""The YAML that we write is read back as the value it was made from."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from dockermesh.inject.emit import emit

TEXT = st.text(max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "-",
        "~",
        "=",
        "<<",
        "null",
        "Yes",
        "0x1f",
        "1:30",
        "1_000",
        "a: b",
        "a #b",
        "!x",
        "|",
        "a\nb",
        "a\n\n",
        "\na",
        "a \n b\n",
        "@",
    ]
)
SCALAR = TEXT | st.booleans() | st.none() | st.integers()
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(st.dictionaries(TEXT, VALUE, max_size=5))
def test_emitted_yaml_is_read_back(value: dict[str, Any]) -> None:
    assert yaml.load(emit(value), Loader=yaml.CSafeLoader) == value


@given(st.dictionaries(TEXT, VALUE, max_size=5))
def test_equal_values_give_equal_bytes(value: dict[str, Any]) -> None:
    assert emit(value) == emit(yaml.safe_load(emit(value)))
