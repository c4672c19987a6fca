"""Watches: changes of a kind as lines of JSON, with bookmarks, until the client leaves, time is up
or history ended.

A status is computed and not stored, so no change tells of it: a watch looks for itself, once a
second, and sends the object again, in the version that it has, when a condition came to be another.
`kubectl wait` lives on that.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dockermesh.kubeapi.cache import Change, ObjectCache, Stored
from dockermesh.kubeapi.conditions import State
from dockermesh.kubeapi.objects import now as time_now
from dockermesh.kubeapi.selectors import Matches
from dockermesh.kubeapi.status import StatusError, expired

BOOKMARK_S = 30.0
LONGEST_S = 3600.0
STATUS_S = 1.0
"""How long a condition may be another until watchers are told."""
_CATCH_UP_S = 5.0
_RECENT_S = 10.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """What is watched, and how it is shown.

    `start` None: all objects first, as additions. `bare` is the object of a bookmark, without its
    version. `show` and `wrap` make an object, and what is sent of it (itself, or a table of it);
    `state` tells its conditions, and is None for a kind that has none.
    """

    prefix: str
    start: int | None
    seconds: float
    bookmarks: bool
    initial_end: bool
    matches: Matches | None
    bare: Mapping[str, Any]
    show: Callable[[str, Stored, int], dict[str, Any]]
    wrap: Callable[[dict[str, Any]], dict[str, Any]]
    state: Callable[[str, Stored], State] | None


async def serve_watch(
    request: web.Request,
    cache: ObjectCache,
    watch: WatchRequest,
    bookmark_s: float = BOOKMARK_S,
) -> web.StreamResponse:
    """Answer with a stream of events. Raises StatusError (410) if it cannot start there."""
    position = await _start(cache, watch)
    response = web.StreamResponse(
        headers={
            "Content-Type": "application/json",
            "Cache-Control": "no-cache, private",
        }
    )
    await response.prepare(request)
    stream = _Stream(response, cache, watch, position)
    with suppress(ConnectionError):
        await stream.run(min(watch.seconds or LONGEST_S, LONGEST_S), bookmark_s)
        await response.write_eof()
    return response


async def _start(cache: ObjectCache, watch: WatchRequest) -> int:
    if watch.start is None:
        return cache.end
    with suppress(TimeoutError):
        # The version may come from another control plane that is a moment ahead.
        async with asyncio.timeout(_CATCH_UP_S):
            while cache.version < watch.start and not cache.is_closed:
                await cache.wait()
    position = cache.position_of(watch.start) if watch.start <= cache.version else None
    if position is None:
        raise expired(watch.start, cache.oldest)
    return position


class _Stream:
    def __init__(
        self,
        response: web.StreamResponse,
        cache: ObjectCache,
        watch: WatchRequest,
        position: int,
    ) -> None:
        self._response = response
        self._cache = cache
        self._watch = watch
        self._position = position
        self._told: dict[str, State] = {}

    async def run(self, seconds: float, bookmark_s: float) -> None:
        end = time.monotonic() + seconds
        next_bookmark = time.monotonic() + bookmark_s
        next_look = (
            time.monotonic() + STATUS_S if self._watch.state is not None else math.inf
        )
        if self._watch.start is None:
            await self._send_all()
        elif self._watch.state is not None:
            self._remember()

        while not self._cache.is_closed:
            if not await self._send_changes():
                return
            now = time.monotonic()
            if now >= end:
                break
            if now >= next_bookmark:
                await self._bookmark()
                next_bookmark = now + bookmark_s
            if now >= next_look:
                await self._send_statuses()
                next_look = time.monotonic() + STATUS_S
            if self._position == self._cache.end:
                with suppress(TimeoutError):
                    async with asyncio.timeout(
                        min(end, next_bookmark, next_look) - time.monotonic()
                    ):
                        await self._cache.wait()

        # A last bookmark lets the client resume from here even if all changes concerned others.
        if await self._send_changes():
            await self._bookmark()

    async def _send_all(self) -> None:
        version, self._position = self._cache.version, self._cache.end
        for key, stored in sorted(self._watched()):
            await self._tell("ADDED", key, stored)
        if self._watch.initial_end:
            await self._bookmark(version, _INITIAL_END)

    def _watched(self) -> list[tuple[str, Stored]]:
        return [
            item
            for item in self._cache.objects.items()
            if item[0].startswith(self._watch.prefix)
        ]

    def _remember(self) -> None:
        """Take it that the client knows the conditions, but for those that may be younger than what
        it has read.
        """
        for key, stored in self._watched():
            status = self._watch.show(key, stored, stored.version).get("status") or {}
            times = [
                condition["lastTransitionTime"]
                for condition in status.get("conditions") or ()
            ]
            if max(times, default="") < time_now(_RECENT_S):
                self._told[key] = self._state(key, stored)

    async def _send_statuses(self) -> None:
        if self._position != self._cache.end:
            return
        for key, stored in self._watched():
            if self._told.get(key) != self._state(key, stored):
                await self._tell("MODIFIED", key, stored)

    async def _tell(self, kind: str, key: str, stored: Stored) -> None:
        self._told[key] = self._state(key, stored)
        document = self._seen(key, stored, stored.version)
        if document is not None:
            await self._send(kind, self._watch.wrap(document))

    def _state(self, key: str, stored: Stored) -> State:
        return self._watch.state(key, stored) if self._watch.state is not None else ()

    async def _send_changes(self) -> bool:
        """Send what is new; False if the watch is over because it fell too far behind."""
        changes = self._cache.since(self._position)
        if changes is None:
            await self._send(
                "ERROR", expired(self._cache.version, self._cache.oldest).to_dict()
            )
            return False

        for change in changes:
            self._position += 1
            if change.key.startswith(self._watch.prefix):
                if change.after is None:
                    self._told.pop(change.key, None)
                else:
                    self._told[change.key] = self._state(change.key, change.after)
                await self._send_change(change)
        return True

    async def _send_change(self, change: Change) -> None:
        old = self._seen(change.key, change.before, change.version)
        new = self._seen(change.key, change.after, change.version)
        if new is not None:
            await self._send(
                "ADDED" if old is None else "MODIFIED", self._watch.wrap(new)
            )
        elif old is not None:
            await self._send("DELETED", self._watch.wrap(old))

    def _seen(
        self, key: str, stored: Stored | None, version: int
    ) -> dict[str, Any] | None:
        """The object, if it matches; an object that stops matching is gone for this client."""
        if stored is None:
            return None
        document = self._watch.show(key, stored, version)
        return (
            document
            if self._watch.matches is None or self._watch.matches(document)
            else None
        )

    async def _bookmark(
        self, version: int | None = None, annotations: Mapping[str, str] | None = None
    ) -> None:
        # While changes are waiting, the latest version is not yet this client's.
        if not self._watch.bookmarks or (
            version is None and self._position != self._cache.end
        ):
            return
        metadata: dict[str, Any] = {
            "resourceVersion": str(self._cache.version if version is None else version)
        }
        if annotations:
            metadata["annotations"] = dict(annotations)
        await self._send("BOOKMARK", {**self._watch.bare, "metadata": metadata})

    async def _send(self, kind: str, document: Mapping[str, Any]) -> None:
        # One event a line, as Kubernetes' servers write them.
        line = json.dumps({"type": kind, "object": document}, separators=(",", ":"))
        await self._response.write(line.encode() + b"\n")


def start_of(query: Mapping[str, str]) -> int | None:
    """The version that a watch starts from. Raises StatusError (400)."""
    text = query.get("resourceVersion", "")
    # 0 means: whatever version is at hand.
    if text in {"", "0"} or query.get("sendInitialEvents") == "true":
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 20:
        raise StatusError(400, "BadRequest", f"invalid resource version: {text[:40]!r}")
    return int(text)
