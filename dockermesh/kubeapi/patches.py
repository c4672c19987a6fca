"""JSON merge patch (RFC 7396) and JSON patch (RFC 6902), as functions of plain data.

Invariant: neither the document nor the patch is changed, and a patch that fails changes nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MAX_OPERATIONS = 1000


class PatchError(ValueError):
    """The patch is malformed, or does not fit the document. `is_test` when a `test` operation did
    not hold.
    """


def merge(document: Any, patch: Any) -> Any:
    """`document` with `patch` merged in: null removes a field, lists are replaced."""
    # RFC 7396: what is no object replaces the whole.
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    result = dict(document) if isinstance(document, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


def apply_operations(document: Any, operations: Any) -> Any:
    """`document` after the operations of a JSON patch. Raises PatchError."""
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise PatchError("a JSON patch must be a list of operations")
    if len(operations) > MAX_OPERATIONS:
        raise PatchError(
            f"The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got"
            f" {len(operations)}"
        )

    result = copy.deepcopy(document)
    for operation in operations:
        if not isinstance(operation, Mapping):
            raise PatchError("an operation must be an object with op and path")
        result = _apply(result, operation)
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> Any:
    name, path = operation.get("op"), _pointer(operation.get("path"))
    if name in {"add", "replace", "test"} and "value" not in operation:
        raise PatchError(f"operation {name} needs a value")
    run = _OPERATIONS.get(name) if isinstance(name, str) else None
    if run is None:
        raise PatchError(f"unknown operation {name!r}")
    return run(document, path, operation)


def _run_add(document: Any, path: list[str], operation: Mapping[str, Any]) -> Any:
    return _add(document, path, copy.deepcopy(operation["value"]))


def _run_remove(document: Any, path: list[str], _operation: Mapping[str, Any]) -> Any:
    return _remove(document, path)


def _run_replace(document: Any, path: list[str], operation: Mapping[str, Any]) -> Any:
    # RFC 6902: what is replaced must exist, unlike what is added.
    _get(document, path)
    return _set(document, path, copy.deepcopy(operation["value"]))


def _run_test(document: Any, path: list[str], operation: Mapping[str, Any]) -> Any:
    if not _same(_get(document, path), operation["value"]):
        raise PatchError(
            f"testing path {operation['path']} failed: the value is another one"
        )
    return document


def _run_copy(document: Any, path: list[str], operation: Mapping[str, Any]) -> Any:
    value = copy.deepcopy(_get(document, _pointer(operation.get("from"))))
    return _add(document, path, value)


def _run_move(document: Any, path: list[str], operation: Mapping[str, Any]) -> Any:
    source = _pointer(operation.get("from"))
    value = copy.deepcopy(_get(document, source))
    if path[: len(source)] == source and path != source:
        raise PatchError("a value cannot be moved into itself")
    return _add(_remove(document, source), path, value)


_OPERATIONS: Mapping[str, Callable[[Any, list[str], Mapping[str, Any]], Any]] = {
    "add": _run_add,
    "remove": _run_remove,
    "replace": _run_replace,
    "test": _run_test,
    "copy": _run_copy,
    "move": _run_move,
}


def _pointer(text: Any) -> list[str]:
    if not isinstance(text, str) or (text and not text.startswith("/")):
        raise PatchError(f"{text!r} is no JSON pointer")
    # RFC 6901; in this order, or ~01 would become a slash.
    return [part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:]]


def _same(one: Any, other: Any) -> bool:
    # For Python `True == 1`; for JSON they are different values.
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            _same(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(
            _same(a, b) for a, b in zip(one, other, strict=True)
        )
    return bool(one == other)


def _get(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        if isinstance(document, dict) and part in document:
            document = document[part]
        elif isinstance(document, list):
            document = document[_index(part, len(document) - 1)]
        else:
            raise PatchError(f"path /{'/'.join(path)} does not exist")
    return document


def _index(part: str, highest: int) -> int:
    if (
        not (part.isascii() and part.isdigit())
        or len(part) > 9
        # RFC 6901: no zeros in front, so that an item has one name.
        or (len(part) > 1 and part[0] == "0")
    ):
        raise PatchError(f"{part!r} is no index of a list")
    if int(part) > highest:
        raise PatchError(f"index {part} is beyond the end of the list")
    return int(part)


def _add(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        # RFC 6902: `-` is the place after the last item.
        parent.insert(len(parent) if last == "-" else _index(last, len(parent)), value)
    else:
        raise PatchError(f"nothing can be added at /{'/'.join(path)}")
    return document


def _set(document: Any, path: Sequence[str], value: Any) -> Any:
    if not path:
        return value
    parent, last = _get(document, path[:-1]), path[-1]
    parent[_index(last, len(parent) - 1) if isinstance(parent, list) else last] = value
    return document


def _remove(document: Any, path: Sequence[str]) -> Any:
    _get(document, path)
    if not path:
        raise PatchError("the whole document cannot be removed")
    parent, last = _get(document, path[:-1]), path[-1]
    del parent[_index(last, len(parent) - 1) if isinstance(parent, list) else last]
    return document
