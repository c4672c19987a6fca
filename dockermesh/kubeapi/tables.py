"""Tables: what `kubectl get` prints, made on the server as `meta.k8s.io` describes it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from dockermesh.kubeapi.served import Column, Served
from dockermesh.model.times import parse_time


def wants_table(accept: str) -> bool:
    """Whether the client prefers a table, by the first type it accepts that we have."""
    for offer in accept.split(","):
        # kubectl offers tables of two versions, and plain JSON last.
        kind, *parameters = (part.strip() for part in offer.split(";"))
        if kind not in {"application/json", "*/*"}:
            continue
        given = dict(p.split("=", 1) for p in parameters if "=" in p)
        if given.get("as") == "Table" and given.get("g") == "meta.k8s.io":
            if given.get("v") in {"v1", "v1beta1"}:
                return True
            continue
        return False
    return False


def table(
    served: Served,
    objects: Iterable[Mapping[str, Any]],
    version: str,
    include: str,
    *,
    headers: bool = True,
) -> dict[str, Any]:
    """A Table of objects; `include` is the request's includeObject."""
    columns = _columns(served)
    result: dict[str, Any] = {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [_definition(c) for c in columns] if headers else None,
        "rows": [_row(columns, document, include) for document in objects],
    }
    return result


def _columns(served: Served) -> tuple[Column, ...]:
    name = Column(
        "Name", ("metadata", "name"), "Name must be unique within a namespace"
    )
    age = Column(
        "Age", ("metadata", "creationTimestamp"), "When the object was created"
    )
    usual = tuple(c for c in served.columns if not c.priority)
    wide = tuple(c for c in served.columns if c.priority)
    return (name, *usual, age, *wide)


def _definition(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": column.type,
        "format": "name" if column.name == "Name" else "",
        "description": column.description,
        "priority": column.priority,
    }


def _row(
    columns: Iterable[Column], document: Mapping[str, Any], include: str
) -> dict[str, Any]:
    row: dict[str, Any] = {"cells": [_cell(c, document) for c in columns]}
    if include == "Object":
        row["object"] = document
    # kubectl reads labels and the namespace from here, for -L and -A.
    elif include != "None":
        metadata = document["metadata"]
        row["object"] = {
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
        }
    return row


def _cell(column: Column, document: Mapping[str, Any]) -> Any:
    value: Any = document
    for part in column.path:
        value = _inside(value, part)

    if column.name == "Age":
        return age(str(value or ""))
    if column.type == "integer":
        return len(value or ())
    if isinstance(value, dict | list):
        return json.dumps(value, separators=(",", ":"))
    return "" if value is None else str(value)


def _inside(value: Any, part: str) -> Any:
    """A field of a mapping, or the condition of that type in a list of conditions."""
    if isinstance(value, list):
        return next(
            (c for c in value if isinstance(c, dict) and c.get("type") == part), None
        )
    return value.get(part) if isinstance(value, Mapping) else None


def age(created: str) -> str:
    """How long ago, in kubectl's words."""
    then = parse_time(created)
    if then is None:
        return "<unknown>"

    seconds = max(int((datetime.now(UTC) - then).total_seconds()), 0)
    unit, smaller = next((one, other) for end, one, other in _AGES if seconds < end)
    whole, rest = divmod(seconds, _UNITS[unit])
    part = rest // _UNITS[smaller] if smaller else 0
    return f"{whole}{unit}{part}{smaller}" if part else f"{whole}{unit}"


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "y": 365 * 86400}
# As `HumanDuration` of k8s.io/apimachinery: the less there is, the more exactly it is told.
_AGES: tuple[tuple[float, str, str], ...] = (
    (2 * 60, "s", ""),
    (10 * 60, "m", "s"),
    (3 * 3600, "m", ""),
    (8 * 3600, "h", "m"),
    (2 * 86400, "h", ""),
    (8 * 86400, "d", "h"),
    (2 * 365 * 86400, "d", ""),
    (math.inf, "y", "d"),
)
"""Below how many seconds an age is told in which unit, and which smaller one."""
