"""The history over HTTP, and the way back: `/dockermesh/history`, beside Kubernetes' paths.

Invariant: everything is validated before anything is written, and what the store can write in one
step is written so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dockermesh.errors import RegistryError
from dockermesh.kubeapi.cache import ObjectCache, Stored
from dockermesh.kubeapi.checking import WARN, check_document
from dockermesh.kubeapi.history import (
    Actor,
    Document,
    History,
    HistoryEntry,
    differs,
    undone,
)
from dockermesh.kubeapi.objects import stamp
from dockermesh.kubeapi.request import actor_of
from dockermesh.kubeapi.served import SERVED
from dockermesh.kubeapi.status import StatusError, bad_request, unavailable
from dockermesh.kubeapi.writer import Writer

PATH = "/dockermesh/history"


@dataclass(frozen=True, slots=True)
class RollbackApi:
    """Handlers of the history's paths."""

    history: History
    writer: Writer
    cache: ObjectCache

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve."""
        router.add_get(PATH, self.show)
        router.add_post(PATH + "/{number}/rollback", self.roll_back)

    async def show(self, _request: web.Request) -> web.Response:
        """All entries, the newest first."""
        return web.json_response(
            {"entries": [entry.to_dict() for entry in reversed(await self._entries())]}
        )

    async def roll_back(self, request: web.Request) -> web.Response:
        """Restore the config as of an entry; with `dryRun=All` only say what would change."""
        number = request.match_info["number"]
        if not number.isdigit() or len(number) > 10:
            raise bad_request(f"{number[:40]!r} is no number of the history")
        entries = await self._entries()
        changes = self._changes(entries, int(number))
        if changes and request.query.get("dryRun") != "All":
            by = actor_of(request.headers, "")
            await self.writer.write_all(
                changes, Actor(by.who, f"rollback {int(number)}", by.session)
            )
        shown = [
            _shown(key, before, after)
            for key, (before, after) in sorted(changes.items())
        ]
        return web.json_response({"number": int(number), "changes": shown})

    async def _entries(self) -> list[HistoryEntry]:
        if not self.cache.is_read:
            raise unavailable("the config store has not been read yet")
        try:
            return await self.history.entries()
        except RegistryError as error:
            raise unavailable(f"the history cannot be read: {error.what}") from error

    def _changes(
        self, entries: list[HistoryEntry], number: int
    ) -> dict[str, tuple[Stored | None, Document | None]]:
        """What leads back, by key: the present object and the wanted document. Raises
        StatusError.
        """
        numbers = [entry.number for entry in entries]
        # Before the first entry is a state, too: all of them undone.
        if not numbers or not numbers[0] - 1 <= number <= numbers[-1]:
            known = (
                f"it goes from {numbers[0]} to {numbers[-1]}"
                if numbers
                else "it is empty"
            )
            raise StatusError(
                404, "NotFound", f"the history has no number {number}: {known}"
            )

        found: dict[str, tuple[Stored | None, Document | None]] = {}
        for key, wanted in undone(entries, number).items():
            current = self.cache.objects.get(key)
            if differs(wanted, current):
                found[key] = (
                    current,
                    _restored(key, wanted, current) if wanted is not None else None,
                )

        return found


def _restored(key: str, wanted: Document, current: Stored | None) -> Document:
    group, kind, _, _ = key.split("/", 3)
    served = next((s for s in SERVED if (s.group, s.kind) == (group, kind)), None)
    document: dict[str, Any] = {
        **wanted,
        "metadata": dict(wanted.get("metadata") or {}),
    }
    if served is not None and served.definition is not None:
        # Rules may have become stricter since it was stored.
        document = {**check_document(document, served, WARN).document}
        document["metadata"] = dict(document["metadata"])
    stamp(document, current.resource if current is not None else None, key)
    return document


def _shown(key: str, before: Stored | None, after: Document | None) -> dict[str, Any]:
    _, kind, namespace, name = key.split("/", 3)
    action = (
        "created" if before is None else "deleted" if after is None else "configured"
    )
    documents = {
        "before": before.resource if before is not None else None,
        "after": after,
    }
    return {"resource": f"{kind} {namespace}/{name}", "action": action} | documents
