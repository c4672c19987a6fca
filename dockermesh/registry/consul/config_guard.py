"""Tells a store that lost its data from one that was changed, and what brings it back. Pure.

A Consul that was restarted empty, or taken back to an older snapshot, answers correctly and
wrongly: every policy is gone, or an old one is back. So each of our writes touches a *marker*
beside the resources, in the same transaction. What it says of the store:

- The marker is the one we know, or a later one: the store is *current*, and what is gone from it
  was removed by somebody.
- There is none, or another store's: the store is *lost*. What we knew is kept and written back;
  what the store has is newer.
- It is one that we know to be past: the store was *taken back*. What we knew is in force.

Invariant: whatever a store in doubt says, no resource that was accepted is given up for it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.config.kinds import SECURITY
from dockermesh.registry.protocols import StoredResource


@dataclass(frozen=True, slots=True)
class Marker:
    """What was written last into the store by one of us.

    `store` names the store since it was first filled; `generation` counts how often it was brought
    back, as Consul's own numbers begin anew then; `version` is Consul's ModifyIndex of the marker.
    """

    store: str
    generation: int
    version: int

    def text(self, nonce: str) -> str:
        """What is written. Another `nonce` each time, or Consul would keep the old version."""
        # No JSON: a control plane of before the markers leaves out what it cannot read.
        return f"store {self.store} generation {self.generation} write {nonce}"


def read_marker(value: bytes | None, version: int) -> Marker | None:
    """The marker in a value of Consul; None for anything else."""
    words = (value or b"").decode("utf-8", "replace").split()
    if words[::2] != ["store", "generation", "write"] or len(words) != 6:
        return None
    return Marker(words[1], int(words[3]), version) if words[3].isdecimal() else None


class Standing(enum.Enum):
    """How a store stands to what is known of it."""

    NEW = "new"
    """It never had a marker, and nothing is known of it."""
    CURRENT = "current"
    LOST = "lost"
    TAKEN_BACK = "taken back"


def standing(known: Marker | None, found: Marker | None) -> Standing:
    """How the store with the marker `found` stands, of which `known` was the last."""
    if known is None:
        return Standing.NEW if found is None else Standing.CURRENT
    if found is None or found.store != known.store:
        return Standing.LOST
    if found.generation > known.generation:
        # Another of us brought it back; what it could not know of is missing there.
        return Standing.LOST

    is_past = (found.generation, found.version) < (known.generation, known.version)
    return Standing.TAKEN_BACK if is_past else Standing.CURRENT


Change = tuple[int, Mapping[str, Any] | None]
"""The version that a write replaces, and what is to be there; None: nothing."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is in force, and the changes by key that make the store say so, the security kinds
    first.
    """

    in_force: Mapping[str, StoredResource]
    changes: Mapping[str, Change] = field(default_factory=dict)


def judge(
    how: Standing,
    known: Mapping[str, StoredResource],
    found: Mapping[str, StoredResource],
) -> Judgement:
    """What is in force when the store says `found`, and `known` was accepted."""
    if how is Standing.LOST:
        missing = {key: item for key, item in known.items() if key not in found}
        changes = {key: (0, item.resource) for key, item in missing.items()}
        return Judgement({**found, **missing}, _ordered(changes))

    if how is Standing.TAKEN_BACK:
        older: dict[str, Change] = {
            key: (_version(found, key), item.resource)
            for key, item in known.items()
            if key not in found or found[key].resource != item.resource
        }
        undone: dict[str, Change] = {
            key: (item.version, None) for key, item in found.items() if key not in known
        }
        return Judgement(known, _ordered(older | undone))

    return Judgement(found)


def _version(found: Mapping[str, StoredResource], key: str) -> int:
    return found[key].version if key in found else 0


def _ordered(changes: Mapping[str, Change]) -> dict[str, Change]:
    return dict(
        sorted(changes.items(), key=lambda item: not item[0].startswith(f"{SECURITY}/"))
    )
