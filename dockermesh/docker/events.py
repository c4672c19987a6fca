"""Events of the Docker engine, and the thread that reads them: the SDK's stream blocks.

Invariant: a stream ends with None exactly once, whatever ended it; what it holds by then was
delivered before.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Left out are exec_*: health checks make several of them a second.
ACTIONS = (
    "create", "start", "restart", "die", "kill", "stop", "pause", "unpause", "health_status",
    "rename", "update", "destroy", "connect", "disconnect",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a container; for network events, to the container that was
    connected.
    """

    action: str
    container: str
    attributes: Mapping[str, str]
    time: int
    """Nanoseconds since the epoch."""


def parse_event(data: Mapping[str, Any]) -> Event | None:
    """The event in one object of GET /events; None when it is not about a container."""
    actor = data.get("Actor") or {}
    attributes = {str(k): str(v) for k, v in (actor.get("Attributes") or {}).items()}
    container = _container_of(data, actor, attributes)
    if not container:
        return None

    # `exec_start: /bin/sh` and `health_status: healthy` bring their details with them.
    action = str(data.get("Action") or data.get("status") or "").split(":")[0]
    at = int(data.get("timeNano") or int(data.get("time") or 0) * 1_000_000_000)
    return Event(action, container, attributes, at)


def _container_of(
    data: Mapping[str, Any], actor: Mapping[str, Any], attributes: Mapping[str, str]
) -> str:
    kind = data.get("Type")
    if kind == "network":
        return attributes.get("container", "")
    # `id` and `status` are of old engines; new ones leave them out.
    return str(actor.get("ID") or data.get("id") or "") if kind == "container" else ""


class EventStream:
    """An open subscription, to be iterated over and closed."""

    def __init__(self, source: Iterator[Mapping[str, Any]], close: Any) -> None:
        self._source = source
        self._close = close
        self.broken = ""
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._thread = threading.Thread(
            target=self._read, name="docker-events", daemon=True
        )
        self._thread.start()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """End the subscription."""
        await self._loop.run_in_executor(None, self._close)

    def _read(self) -> None:
        try:
            for data in self._source:
                event = parse_event(data)
                if event is not None:
                    self._loop.call_soon_threadsafe(self._queue.put_nowait, event)
        except Exception as error:
            # Whatever broke the stream (the SDK raises urllib3's, http.client's and its own): its
            # reader starts anew.
            self.broken = str(error)

        with contextlib.suppress(
            RuntimeError
        ):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, None)
