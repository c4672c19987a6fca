"""Every change of the config, numbered, so that one can see who did what and go back.

An entry is what one client changed in one go: kubectl and our command line say which requests
belong together (`Kubectl-Session`). Of each object an entry keeps what was there before; the state
as of a number is the present one with all later entries undone. So a write costs two small records,
however large the config is.

Invariants: an entry that was begun is never renumbered; the last `KEPT` are kept; a change that
cannot be noted is made all the same, and logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from dockermesh.errors import DockermeshError
from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.managed import SERVER_SET
from dockermesh.kubeapi.objects import now
from dockermesh.registry import Documents

KEPT = 100
_SESSIONS = 64
_log = structlog.get_logger(__name__)
Document = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a change, by which command; requests of one `session` (empty: none) are one
    change.
    """

    who: str
    command: str
    session: str = ""


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """One object of an entry; `before` is None where it was created. `action` is created,
    configured or deleted.
    """

    key: str
    action: str
    before: Document | None

    @property
    def title(self) -> str:
        """`VirtualService default/reviews`."""
        _, kind, namespace, name = self.key.split("/", 3)
        return f"{kind} {namespace}/{name}"


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of the config."""

    number: int
    time: str
    who: str
    command: str
    changes: tuple[ObjectChange, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without the documents."""
        counts = {
            a: sum(c.action == a for c in self.changes)
            for a in ("created", "configured", "deleted")
        }
        resources = [
            {"resource": change.title, "action": change.action}
            for change in self.changes
        ]
        head = {
            "number": self.number,
            "time": self.time,
            "who": self.who,
            "command": self.command,
        }
        return head | {"counts": counts, "resources": resources}


class History:
    """Notes changes, and tells what was."""

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._lock = asyncio.Lock()
        self._sessions: dict[str, int] = {}

    async def record(
        self, by: Actor, key: str, before: Document | None, after: Document | None
    ) -> None:
        """Note that an object was changed."""
        try:
            async with self._lock:
                number = self._sessions.get(by.session) if by.session else None
                if number is None:
                    number = await self._begin(by)
                action = (
                    "created"
                    if before is None
                    else "deleted"
                    if after is None
                    else "configured"
                )
                change = {"action": action, "before": before}
                # The first change of an object in a session says what was there before all of it.
                await self._documents.create(f"{number:010d}/change/{key}", change)
        except DockermeshError as error:
            _log.warning(
                "a change is missing in the history", key=key, reason=str(error)
            )

    async def _begin(self, by: Actor) -> int:
        numbers = sorted(
            int(folder)
            for folder in await self._documents.folders()
            if folder.isdigit()
        )
        # Numbers only grow, so that one that somebody noted stays the same change.
        number = (numbers[-1] if numbers else 0) + 1
        head = {"time": now(), "who": by.who, "command": by.command}
        while not await self._documents.create(f"{number:010d}/entry", head):
            number += 1  # another control plane was faster
        # Removed by whoever adds one: there is no other process that would.
        for old in (n for n in numbers if n <= number - KEPT):
            await self._documents.remove(f"{old:010d}")
        if by.session:
            self._sessions[by.session] = number
            while len(self._sessions) > _SESSIONS:
                del self._sessions[next(iter(self._sessions))]

        return number

    async def entries(self) -> list[HistoryEntry]:
        """All entries that are kept, the oldest first. Raises RegistryError if the store cannot be
        read.
        """
        heads: dict[int, Document] = {}
        changes: dict[int, list[ObjectChange]] = {}
        for path, document in sorted((await self._documents.read()).items()):
            folder, _, rest = path.partition("/")
            # Others may keep things in the same store.
            if not folder.isdigit() or not isinstance(document, dict):
                continue
            if rest == "entry":
                heads[int(folder)] = document
            elif rest.startswith("change/") and rest.count("/") >= 4:
                change = ObjectChange(
                    rest.removeprefix("change/"),
                    str(document.get("action")),
                    document.get("before"),
                )
                changes.setdefault(int(folder), []).append(change)

        return [
            HistoryEntry(
                n,
                str(h.get("time")),
                str(h.get("who")),
                str(h.get("command")),
                tuple(changes.get(n, ())),
            )
            for n, h in sorted(heads.items())
        ]


def undone(entries: Iterable[HistoryEntry], number: int) -> dict[str, Document | None]:
    """What the objects that were changed after `number` were then; None where they did not
    exist.
    """
    found: dict[str, Document | None] = {}
    for entry in sorted(entries, key=lambda e: e.number, reverse=True):
        if entry.number <= number:
            break
        found |= {change.key: change.before for change in entry.changes}
    return found


def differs(wanted: Document | None, current: Stored | None) -> bool:
    """Whether an object is another than what is wanted, apart from what the server writes into
    it.
    """
    return _users_part(wanted) != _users_part(
        current.resource if current is not None else None
    )


def _users_part(document: Document | None) -> Document | None:
    if document is None:
        return None
    metadata = {
        k: v for k, v in (document.get("metadata") or {}).items() if k not in SERVER_SET
    }
    return {k: v for k, v in document.items() if k != "status"} | {"metadata": metadata}
