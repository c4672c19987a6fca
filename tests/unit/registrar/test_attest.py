"""What a registrar says of pods that it has just met: an engine and a sink that are made up, since a
real engine cannot be told when to give a log.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from typing import Any

from patience import SLACK

from dockermesh.errors import EngineError
from dockermesh.registrar.desired import Desired
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar

WORKLOAD = "shop/web-1"
TOKEN = "5" * 64
ATTESTED = json.dumps(
    {"dockermesh": "attest", "workload": WORKLOAD, "token_sha256": TOKEN}
)
WHEN = "2026-11-01T00:00:01Z"
LABELS = {"dockermesh.io/role": "pod", "dockermesh.io/workload": WORKLOAD}
POD: dict[str, Any] = {
    "Id": "a" * 64,
    "Name": "/shop-web-1-pod-1",
    "Created": WHEN,
    "Config": {"Image": "pod", "Labels": LABELS},
    "HostConfig": {
        "NetworkMode": "n",
        "Mounts": [{"Target": "/etc/dockermesh/trust"}],
    },
    "NetworkSettings": {"Networks": {"n": {"IPAddress": "10.0.0.1"}}},
    "State": {"Running": True, "Status": "running", "StartedAt": WHEN},
}


class Engine:
    """One pod, whose log comes when it is let."""

    def __init__(self) -> None:
        self.is_readable = asyncio.Event()
        self.log = f"{WHEN} {ATTESTED}"
        self.failure = ""

    async def list_containers(self) -> list[dict[str, Any]]:
        return [{"Id": POD["Id"], "State": "running", "Labels": LABELS}]

    async def inspect(self, container: str) -> dict[str, Any]:
        return POD

    async def logs(self, container: str, since: int) -> str:
        await self.is_readable.wait()
        if self.failure:
            raise EngineError(self.failure)
        return self.log

    async def image_config(self, image: str) -> None:
        return None

    async def started(self) -> str:
        return ""

    async def subscribe(self, since: int = 0) -> Any:
        return Silence()


class Silence:
    """A stream without events."""

    def __aiter__(self) -> Silence:
        return self

    async def __anext__(self) -> Any:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return None


class Sink:
    """Remembers the tokens of all that it was to write of the workload."""

    def __init__(self) -> None:
        self.tokens: list[str] = []
        self.refreshed = 0

    async def run(self, resync: Callable[[], None]) -> None:
        await asyncio.Event().wait()

    async def refresh(self) -> None:
        self.refreshed += 1

    async def retain(self, groups: Set[str]) -> None:
        return None

    async def apply(self, group: str, desired: Desired) -> None:
        self.tokens += [workload.token_sha256 for workload in desired.workloads]


@asynccontextmanager
async def registrar(engine: Engine) -> AsyncIterator[Sink]:
    sink, options = Sink(), Options(internal=True)
    running = Registrar(engine, sink, options, heal=False, resync=0.02)  # type: ignore[arg-type]
    task = asyncio.create_task(running.run())
    try:
        yield sink
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(5 * SLACK):
        while not holds():  # noqa: ASYNC110 (several things are waited for)
            await asyncio.sleep(0.005)


async def test_nothing_is_said_of_a_running_pod_before_its_log_was_read() -> None:
    engine = Engine()
    async with registrar(engine) as sink:
        # Compared a few times by then, with nothing to tell.
        await eventually(lambda: sink.refreshed > 3)
        assert sink.tokens == []
        engine.is_readable.set()
        await eventually(lambda: sink.tokens)
        assert set(sink.tokens) == {TOKEN}


async def test_a_pod_that_has_said_nothing_yet_is_told_without_a_token() -> None:
    engine = Engine()
    engine.log = ""
    engine.is_readable.set()
    async with registrar(engine) as sink:
        await eventually(lambda: sink.tokens)
        assert set(sink.tokens) == {""}
        engine.log = f"{WHEN} {ATTESTED}"
        await eventually(lambda: sink.tokens[-1] == TOKEN)


async def test_a_log_that_cannot_be_read_holds_nothing_up() -> None:
    engine = Engine()
    engine.failure = "the log is damaged"
    engine.is_readable.set()
    async with registrar(engine) as sink:
        await eventually(lambda: sink.tokens)
        assert set(sink.tokens) == {""}
