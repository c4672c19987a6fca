"""Values of Consul's KV as resources. Pure.

Invariants: a value whose ModifyIndex did not change stays the same object. One that cannot be read
costs itself alone, and keeps the content that it had before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dockermesh.registry.accept import quoted
from dockermesh.registry.consul.config_guard import Change
from dockermesh.registry.damaged import lost_resource
from dockermesh.registry.protocols import StoredResource

Check = Callable[[str, Mapping[str, Any]], str]
"""What is wrong with the document of a key; empty if nothing is."""
_log = structlog.get_logger(__name__)


def accept_all(_key: str, _document: Mapping[str, Any]) -> str:
    """Every document is good."""
    return ""


@dataclass(frozen=True, slots=True)
class Reading:
    """All resources, and what to write where a value cannot be read and its content is known."""

    resources: Mapping[str, StoredResource]
    repairs: Mapping[str, Change]


def read_values(
    values: Iterable[tuple[str, Mapping[str, Any]]],
    known: Mapping[str, StoredResource],
    check: Check,
    *,
    are_versions_known: bool,
) -> Reading:
    """The resources in Consul's pairs, by keys without the prefix; `known` is what they were.

    `are_versions_known`: the store counts on from them, so what is at the same version is the same.
    """
    resources: dict[str, StoredResource] = {}
    repairs: dict[str, Change] = {}

    for key, pair in values:
        version, old = int(pair["ModifyIndex"]), known.get(key)
        is_same = old is not None and old.version == version and are_versions_known
        if is_same and old is not None:
            resources[key] = old
            continue

        document, damage = _document(pair.get("Value"))
        has_good = old is not None and not old.is_lost
        if damage and has_good and old is not None:
            repairs[key] = (version, old.resource)
        elif has_good and old is not None and document != old.resource:
            # What nobody knows another content of is taken as it is: its reader says what is wrong.
            damage = check(key, document)

        resources[key] = (
            _kept(key, version, old, damage)
            if damage
            else StoredResource(key, document, version)
        )

    return Reading(resources, repairs)


def _document(value: bytes | str | None) -> tuple[dict[str, Any], str]:
    """The document in a value, or why there is none."""
    try:
        document = json.loads(value or b"")
    except (ValueError, RecursionError) as error:
        return {}, f"no JSON: {quoted(str(error))}"
    if not isinstance(document, dict):
        return {}, "not a JSON object"
    return document, ""


def _kept(
    key: str, version: int, old: StoredResource | None, damage: str
) -> StoredResource:
    _log.warning("a stored resource cannot be read", key=quoted(key), reason=damage)
    if old is not None and not old.is_lost:
        return StoredResource(key, old.resource, version, damage)
    return lost_resource(key, version, damage)
