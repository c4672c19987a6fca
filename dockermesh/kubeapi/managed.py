"""Who manages which field: `metadata.managedFields`, and the merge of server-side apply.

A field is a path of keys to a value that is no mapping, or to an empty one; lists are one field, as
in the definitions of Istio's kinds. Invariant: an apply removes only what its manager applied
before and nobody else manages.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
APPLY = "Apply"
UPDATE = "Update"
SERVER_SET = frozenset(
    {
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "managedFields",
        "selfLink",
    }
)
"""Metadata that only the server sets."""
# As in Kubernetes, nobody manages what names an object or only the server sets.
_SYSTEM = SERVER_SET | {"name", "namespace"}
_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Manager:
    """Who writes: the name, by which operation, in which API version, when (RFC 3339)."""

    name: str
    operation: str
    api_version: str
    time: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A field that another manager set to another value."""

    path: Path
    manager: str


def fields_of(document: Mapping[str, Any]) -> set[Path]:
    """All fields that users own."""
    found: set[Path] = set()
    for key, value in document.items():
        if key == "metadata" and isinstance(value, Mapping):
            for name, part in value.items():
                if name not in _SYSTEM:
                    _collect(part, ("metadata", name), found)
        elif key not in {"apiVersion", "kind", "metadata", "status"}:
            _collect(value, (key,), found)
    return found


def _collect(value: Any, path: Path, found: set[Path]) -> None:
    if isinstance(value, Mapping) and value:
        for key, part in value.items():
            _collect(part, (*path, key), found)
    else:
        found.add(path)


def merge_applied(
    live: Mapping[str, Any], applied: Mapping[str, Any], manager: str
) -> tuple[dict[str, Any], list[Conflict]]:
    """`live` with what `manager` applies, and the fields in which that overrides others."""
    entries = _entries(live)
    mine = {p for e in entries if _is_of(e, manager, APPLY) for p in _fields(e)}
    others = {
        (str(e.get("manager", "")), str(e.get("operation", ""))): _fields(e)
        for e in entries
        if not _is_of(e, manager, APPLY)
    }
    wanted = fields_of(applied)

    result: dict[str, Any] = copy.deepcopy(dict(live))
    conflicts = []
    for path in sorted(wanted):
        value, present = get(applied, path), get(live, path)
        if value == {} and isinstance(present, Mapping):
            # To apply an empty mapping is to want nothing in it, not to remove what others have
            # there.
            continue
        if present != value:
            conflicts += [
                Conflict(path, name)
                for (name, _), fields in others.items()
                if path in fields or _below(path, fields)
            ]
        put(result, path, copy.deepcopy(value))

    _remove_abandoned(result, mine - wanted, applied, others.values())
    return result, conflicts


def _remove_abandoned(
    result: dict[str, Any],
    abandoned: set[Path],
    applied: Mapping[str, Any],
    others: Iterable[set[Path]],
) -> None:
    """Drop what the manager applied before and no longer does, unless others manage it, too."""
    kept = set().union(*others)
    # A field that became a mapping, or the reverse, is there under another path.
    replaced = {path for path in fields_of(applied) if get(applied, path) != {}}
    for path in abandoned - kept:
        if not _below(path, replaced):
            drop(result, path)


def _below(path: Path, fields: Iterable[Path]) -> bool:
    """Whether somebody manages a field above or below: the value there is replaced as a whole."""
    return any(f[: len(path)] == path or path[: len(f)] == f for f in fields)


def record(
    before: Mapping[str, Any] | None,
    after: dict[str, Any],
    manager: Manager,
    applied: Any = None,
) -> None:
    """Write into `after` who manages what, after `manager` changed `before` into it; `applied` is
    what was applied.
    """
    now, old = fields_of(after), before or {}
    changed = {path for path in now if get(old, path) != get(after, path)}
    owned = now & (fields_of(applied) if manager.operation == APPLY else changed)

    result: list[dict[str, Any]] = []
    is_known = False
    for entry in _entries(after):
        if _is_of(entry, manager.name, manager.operation):
            is_known = True
            result += _renewed(entry, manager, _Fields(now, changed, owned))
        else:
            # Who changes a value becomes its manager, and the others lose it.
            result += _reduced(entry, (_fields(entry) - changed) & now)
    if owned and not is_known:
        result.append(_entry(manager, owned))

    after["metadata"]["managedFields"] = result
    if not result:
        del after["metadata"]["managedFields"]


@dataclass(frozen=True, slots=True)
class _Fields:
    """Fields after a change: all that are there, those with another value, and the writer's own."""

    now: set[Path]
    changed: set[Path]
    owned: set[Path]


def _renewed(
    entry: dict[str, Any], manager: Manager, fields: _Fields
) -> list[dict[str, Any]]:
    """The writer's entry, as it is now."""
    is_apply = manager.operation == APPLY
    if not is_apply and not fields.changed:
        return [entry]

    # An apply says all that its manager wants; an update adds to what it changed before.
    known = _fields(entry)
    own = (fields.owned if is_apply else known | fields.owned) & fields.now
    if not own:
        return []
    # Applying the same again leaves the time: `kubectl apply` in a loop must change nothing.
    is_same = own == known and not fields.changed
    return [entry if is_same else _entry(manager, own)]


def _reduced(entry: dict[str, Any], fields: set[Path]) -> list[dict[str, Any]]:
    """Another's entry with what is left of its fields; none if nothing is."""
    if not fields:
        return []
    return [
        entry if fields == _fields(entry) else {**entry, "fieldsV1": _encode(fields)}
    ]


def _entry(manager: Manager, fields: set[Path]) -> dict[str, Any]:
    return {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": manager.api_version,
        "time": manager.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": _encode(fields),
    }


def _entries(document: Mapping[str, Any]) -> list[Any]:
    entries = (document.get("metadata") or {}).get("managedFields")
    return (
        [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    )


def _is_of(entry: Mapping[str, Any], manager: str, operation: str) -> bool:
    # One name may manage twice: once by applying and once by updating.
    return (entry.get("manager"), entry.get("operation")) == (manager, operation)


def _encode(fields: Iterable[Path]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path in sorted(fields):
        node = tree
        for part in path:
            # FieldsV1 marks names of fields so; list items would have other marks.
            node = node.setdefault(f"f:{part}", {})
    return tree


def _fields(entry: Mapping[str, Any]) -> set[Path]:
    found: set[Path] = set()

    def walk(node: Any, path: Path) -> None:
        names = (
            [k for k in node if isinstance(k, str) and k.startswith("f:")]
            if isinstance(node, Mapping)
            else []
        )
        for name in names:
            walk(node[name], (*path, name[2:]))
        if not names and path:
            found.add(path)

    walk(entry.get("fieldsV1"), ())
    return found


def get(document: Any, path: Path) -> Any:
    """The value at `path`, or a mark that equals nothing else."""
    for part in path:
        if not isinstance(document, Mapping) or part not in document:
            return _ABSENT
        document = document[part]
    return document


def put(document: dict[str, Any], path: Path, value: Any) -> None:
    """Set the value at `path`; what is in the way is replaced."""
    node = document
    for part in path[:-1]:
        if not isinstance(node.get(part), dict):
            node[part] = {}
        node = node[part]
    node[path[-1]] = value


def drop(document: dict[str, Any], path: Path) -> None:
    """Remove the value at `path`, and the mappings that become empty by it, but no part of the
    envelope.
    """
    parents = [document]
    for part in path[:-1]:
        node = parents[-1].get(part)
        if not isinstance(node, dict):
            return
        parents.append(node)

    parents[-1].pop(path[-1], None)
    for depth in range(len(parents) - 1, 1, -1):
        if parents[depth]:
            return
        del parents[depth - 1][path[depth - 1]]
