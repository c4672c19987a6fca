"""The difference between a project and its meshed form, as a Compose file to be merged after the user's own.

Invariant: merging it by Compose's rules gives the meshed project; what the user's file says is not repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reset:
    """Written `!reset null`: Compose removes what the earlier file said."""


@dataclass(frozen=True, slots=True)
class Override:
    """Written `!override`: Compose takes this value instead of merging it."""

    value: Any


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What must be merged into `before` to get `after`."""
    found: dict[str, Any] = {}
    for key, value in after.items():
        if key not in before or before[key] is None:
            if value is not None:
                found[key] = value
        elif before[key] != value:
            old = before[key]
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                found[key] = difference(old, value)
            else:
                found[key] = Override(value) if isinstance(value, (list, Mapping)) else value
    for key, value in before.items():
        if key not in after and value is not None:
            found[key] = Reset()
    return found


def overlay(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The overlay file for the whole project."""
    wanted = ("services", "networks", "volumes", "configs")
    sections = {key: difference(before.get(key) or {}, after.get(key) or {}) for key in wanted}
    return {key: section for key, section in sections.items() if section}
