"""Merge patch and JSON patch: the examples of RFC 7396 and RFC 6902, and what must be refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from dockermesh.kubeapi.patches import PatchError, apply_operations, merge


@pytest.mark.parametrize(
    ("document", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_follows_the_examples_of_the_rfc(
    document: Any, patch: Any, result: Any
) -> None:
    before = copy.deepcopy(document)
    assert merge(document, patch) == result
    assert document == before


@pytest.mark.parametrize(
    ("document", "operations", "result"),
    [
        (
            {"foo": "bar"},
            [{"op": "add", "path": "/baz", "value": 1}],
            {"foo": "bar", "baz": 1},
        ),
        (
            {"foo": ["bar", "baz"]},
            [{"op": "add", "path": "/foo/1", "value": "q"}],
            {"foo": ["bar", "q", "baz"]},
        ),
        (
            {"foo": ["a"]},
            [{"op": "add", "path": "/foo/-", "value": "b"}],
            {"foo": ["a", "b"]},
        ),
        (
            {"foo": ["bar", "q", "baz"]},
            [{"op": "remove", "path": "/foo/1"}],
            {"foo": ["bar", "baz"]},
        ),
        (
            {"baz": "q"},
            [{"op": "replace", "path": "/baz", "value": "boo"}],
            {"baz": "boo"},
        ),
        (
            {"a": {"x": 1}, "b": {}},
            [{"op": "move", "from": "/a/x", "path": "/b/y"}],
            {"a": {}, "b": {"y": 1}},
        ),
        (
            {"a": [1, 2]},
            [{"op": "copy", "from": "/a/0", "path": "/a/-"}],
            {"a": [1, 2, 1]},
        ),
        (
            {"a/b": 1, "m~n": 2},
            [{"op": "test", "path": "/a~1b", "value": 1}],
            {"a/b": 1, "m~n": 2},
        ),
        ({"m~n": 2}, [{"op": "remove", "path": "/m~0n"}], {}),
    ],
)
def test_operations_follow_the_examples_of_the_rfc(
    document: Any, operations: Any, result: Any
) -> None:
    before = copy.deepcopy(document)
    assert apply_operations(document, operations) == result
    assert document == before


@pytest.mark.parametrize(
    "operations",
    [
        "x",
        {"op": "add"},
        [1],
        [{"op": "add", "path": "a", "value": 1}],
        [{"op": "add", "path": "/a"}],
        [{"op": "add", "path": "/x/y", "value": 1}],
        [{"op": "remove", "path": "/x"}],
        [{"op": "replace", "path": "/x", "value": 1}],
        [{"op": "add", "path": "/l/3", "value": 1}],
        [{"op": "add", "path": "/l/01", "value": 1}],
        [{"op": "remove", "path": "/l/-"}],
        [{"op": "test", "path": "/l", "value": [1, 3]}],
        [{"op": "test", "path": "/l/0", "value": True}],
        [{"op": "move", "from": "/l", "path": "/l/0"}],
        [{"op": "remove", "path": ""}],
        [{"op": "nonsense", "path": "/l"}],
        [{"op": "test", "path": "/l", "value": [1, 2]}] * 1001,
    ],
)
def test_what_does_not_fit_is_refused(operations: Any) -> None:
    with pytest.raises(PatchError):
        apply_operations({"l": [1, 2]}, operations)
