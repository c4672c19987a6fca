"""The difference between a project and its meshed form, as a Compose file to be merged after the
user's own.

Invariant: merging it by Compose's rules gives the meshed project; what the user's file says is not
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dockermesh.inject.emit import Override, Reset
from dockermesh.inject.string_map import string_map


def overlay(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The overlay file for the whole project."""
    sections: dict[str, Any] = {
        "services": _services(before["services"], after["services"])
    }
    for key in ("networks", "volumes", "configs"):
        old = before.get(key) or {}
        sections[key] = {
            name: value
            for name, value in (after.get(key) or {}).items()
            if name not in old
        }
    return {key: section for key, section in sections.items() if section}


def _services(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, service in after.items():
        old = before.get(name)
        changed = service if old is None else _service(old, service)
        if changed:
            found[name] = changed
    return found | {name: Reset() for name in before if name not in after}


def _service(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    gone = {
        key for key, value in before.items() if key not in after and value is not None
    }
    changed = {key: value for key, value in after.items() if before.get(key) != value}

    found = {
        key: _changed(key, before.get(key), value) for key, value in changed.items()
    }
    return found | {key: Reset() for key in before if key in gone}


def _changed(key: str, old: Any, new: Any) -> Any:
    """What stands in the overlay, so that Compose's merging gives `new`."""
    if key == "labels":
        # Labels are only ever added, and Compose merges those.
        known = string_map(old)
        return {name: text for name, text in new.items() if name not in known}

    # Not merged: what Compose derives (a dependency out of `links`, say) would come on top.
    return Override(new) if isinstance(new, (list, Mapping)) and old else new
