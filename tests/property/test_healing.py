"""Healing under any interleaving: a pod, its proxy and its app, an engine that tells late, and
somebody who stops, starts and kills; in the end what nobody stopped runs, in its pod's network.

The registrar is the real one, on an event loop whose clock jumps. The engine is a model of Docker's
rules: one network per run of a pod, joined at start; restart policies; signals that are told before
the end.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from dockermesh.docker.events import Event
from dockermesh.errors import EngineError
from dockermesh.registrar.options import Options
from dockermesh.registrar.registrar import Registrar

S = 1_000_000_000
LABELS = {
    "dockermesh.io/workload": "shop/web-1",
    "dockermesh.io/service": "web",
    "com.docker.compose.project": "shop",
}
IDS = {"pod": "p" * 64, "proxy": "x" * 64, "app": "a" * 64}


class JumpingLoop(asyncio.SelectorEventLoop):
    """Time passes only while nothing is to be done, and then at once."""

    def __init__(self) -> None:
        super().__init__(_Jumping(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jumping(selectors.DefaultSelector):  # type: ignore[valid-type,misc]
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self._loop.now += timeout
        return super().select(0)


@dataclass
class Box:
    """One container of the model."""

    role: str
    running: bool = False
    status: str = "created"
    started: int = 0
    finished: int = 0
    error: str = ""
    network: int = 0
    """The run of the pod whose network it is in."""
    by_hand: bool = False
    ignores_stop: bool = False
    has_stale_token: bool = False


class Engine:
    """As much of Docker as healing meets. `lag` is how late it tells and answers, in seconds."""

    def __init__(self, loop: JumpingLoop, lag: float) -> None:
        self.loop = loop
        self.lag = lag
        self.boxes = {role: Box(role) for role in IDS}
        self.boxes["proxy"].ignores_stop = True
        self.up_since = 0
        self._latest = 0
        self.is_up = True
        self.streams: list[asyncio.Queue[Event | None]] = []
        self.attested = 0
        self.busy = {role: asyncio.Lock() for role in IDS}

    @property
    def now(self) -> int:
        # No two things happen at the same moment.
        self._latest = max(self._latest + 1, int(self.loop.now * S) + 1000 * S)
        return self._latest

    # what happens

    def tell(self, action: str, box: Box, **attributes: str) -> None:
        labels = LABELS | {"dockermesh.io/role": box.role} | attributes
        event = Event(action, IDS[box.role], labels, self.now)
        for stream in self.streams:
            self.loop.call_later(self.lag, stream.put_nowait, event)

    def begin(self, role: str) -> bool:
        """Start a container, if it can join its network."""
        box, pod = self.boxes[role], self.boxes["pod"]
        if box.running or not self.is_up:
            return True
        if role != "pod" and not pod.running:
            box.error, box.status = (
                "cannot join network of a non running container",
                "exited",
            )
            return False
        box.running, box.status, box.error, box.by_hand = True, "running", "", False
        box.started = self.now
        if role == "pod":
            box.network = self.now
            self.loop.call_later(0.05, self.attest, box.started)
        else:
            box.network = pod.network
            # The pod has not replaced the bootstrap of its last run yet.
            is_early = bool(pod.finished) and self.attested < pod.started
            box.has_stale_token = role == "proxy" and is_early
        self.tell("start", box)
        return True

    def attest(self, run: int) -> None:
        pod = self.boxes["pod"]
        if pod.running and pod.started == run:
            self.attested = self.now

    def end(self, role: str) -> None:
        box = self.boxes[role]
        if box.running:
            box.running, box.status, box.finished = False, "exited", self.now
            self.tell("die", box)

    async def signal(self, role: str, grace: float, *, by_hand: bool) -> None:
        """Docker's stop: a signal, and after `grace` seconds another one."""
        box = self.boxes[role]
        if not box.running:
            return
        run = box.started
        self.tell("kill", box, signal="1" if box.ignores_stop else "15")
        end = self.loop.time() + (grace if box.ignores_stop else min(grace, 0.1))
        while (  # noqa: ASYNC110  the model polls
            box.running and box.started == run and self.loop.time() < end
        ):
            await asyncio.sleep(0.02)
        if box.running and box.started == run:
            if box.ignores_stop:
                self.tell("kill", box, signal="9")
            self.end(role)
        box.by_hand = by_hand

    async def crash_of_engine(self, *, is_killed: bool) -> None:
        """The engine ends and comes up again: killed, it takes what it finds for stopped by
        hand.
        """
        for role in IDS:
            if not is_killed and self.boxes[role].running:
                self.tell("kill", self.boxes[role], signal="15")
        self.is_up = False
        for stream in self.streams:
            self.loop.call_later(self.lag, stream.put_nowait, None)
        self.streams.clear()
        if not is_killed:
            for role in IDS:
                self.end(role)
        await asyncio.sleep(3)
        was_running = [
            r for r in ("app", "proxy", "pod") if self.boxes[r].finished >= 0
        ]
        for role in IDS:
            self.end(role)
        self.is_up, self.up_since = True, self.now
        # By its policies, in any order: an app of the user's `always`, a pod unless it was stopped.
        for role in was_running:
            box = self.boxes[role]
            policy = {
                "app": True,
                "proxy": False,
                "pod": not is_killed and not box.by_hand,
            }
            if policy[role] and box.status == "exited":
                self.begin(role)

    # what the registrar asks

    async def _answer(self) -> None:
        await asyncio.sleep(self.lag / 2)
        if not self.is_up:
            raise EngineError("the engine is away")

    def _role(self, container: str) -> str:
        return next(role for role, found in IDS.items() if found == container)

    def _inspected(self, role: str) -> dict[str, Any]:
        box = self.boxes[role]
        labels = LABELS | {"dockermesh.io/role": role}
        mode = "bridge" if role == "pod" else f"container:{IDS['pod']}"
        mounts = [{"Target": "/etc/dockermesh/trust"}] if role == "pod" else []
        health = {"Health": {"Status": "healthy"}} if role == "pod" else {}
        return {
            "Id": IDS[role],
            "Name": f"/{role}",
            "Config": {
                "Labels": labels,
                "StopSignal": "SIGHUP" if box.ignores_stop else "SIGTERM",
            },
            "HostConfig": {"NetworkMode": mode, "Mounts": mounts},
            "NetworkSettings": {
                "Networks": {"dockermesh": {"IPAddress": "172.28.0.2"}}
            },
            "State": health
            | {
                "Status": box.status,
                "Running": box.running,
                "StartedAt": _time(box.started),
                "FinishedAt": _time(box.finished),
                "Error": box.error,
            },
        }

    async def list_containers(self) -> list[dict[str, Any]]:
        await self._answer()
        return [
            {
                "Id": IDS[role],
                "Labels": LABELS | {"dockermesh.io/role": role},
                "State": box.status,
                "Status": f"{box.started}",
            }
            for role, box in self.boxes.items()
        ]

    async def image_config(self, image: str) -> dict[str, Any] | None:
        return {}

    async def inspect(self, container: str) -> dict[str, Any] | None:
        found = self._inspected(self._role(container))
        # What it says was so when it was asked.
        await self._answer()
        return found

    async def logs(self, container: str, since: int) -> str:
        await self._answer()
        if self.attested < self.boxes["pod"].started:
            return ""
        said = {
            "dockermesh": "attest",
            "workload": "shop/web-1",
            "token_sha256": "a" * 64,
        }
        return f"{_time(self.attested)} {json.dumps(said)}"

    async def started(self) -> str:
        await self._answer()
        return _time(self.up_since)

    async def subscribe(self, since: int = 0) -> Any:
        await self._answer()
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self.streams.append(queue)
        return _Stream(queue)

    async def start(self, container: str) -> None:
        await self._answer()
        async with self.busy[self._role(container)]:
            if not self.begin(self._role(container)):
                raise EngineError("cannot join network of a non running container")

    async def stop(self, container: str, grace: int) -> None:
        await self._answer()
        role = self._role(container)
        # Docker lets nobody wait: it goes to whatever runs now.
        await self.signal(role, grace, by_hand=self.boxes[role].by_hand)

    async def restart(self, container: str, grace: int) -> None:
        await self._answer()
        role = self._role(container)
        async with self.busy[role]:
            await self.signal(role, grace, by_hand=False)
            if not self.begin(role):
                raise EngineError("cannot join network of a non running container")


class _Stream:
    def __init__(self, queue: asyncio.Queue[Event | None]) -> None:
        self._queue = queue

    def __aiter__(self) -> _Stream:
        return self

    async def __anext__(self) -> Event:
        event = await self._queue.get()
        if event is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """Nothing is open."""


class Sink:
    """Nothing is registered."""

    async def run(self, _resync: Any) -> None:
        await asyncio.Event().wait()

    async def refresh(self) -> None: ...
    async def retain(self, _groups: Any) -> None: ...
    async def apply(self, _group: str, _desired: Any) -> None: ...


def _time(moment: int) -> str:
    if not moment:
        return "0001-01-01T00:00:00Z"
    seconds, rest = divmod(moment, S)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"1970-01-01T{hours:02}:{minutes:02}:{seconds:02}.{rest:09}Z"


@dataclass
class User:
    """Somebody at the keyboard; every wish is what `docker` would do."""

    engine: Engine
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def do(self, verb: str, role: str) -> None:
        wish: Coroutine[Any, Any, None] = getattr(self, f"_{verb}")(role)
        task = asyncio.ensure_future(wish)
        self.tasks.add(task)

    async def _stop(self, role: str) -> None:
        async with self.engine.busy[role]:
            if self.engine.is_up:
                grace = 5.0
                await self.engine.signal(role, grace, by_hand=True)
                self.engine.boxes[role].by_hand = not self.engine.boxes[role].running

    async def _start(self, role: str) -> None:
        async with self.engine.busy[role]:
            if self.engine.is_up:
                self.engine.begin(role)

    async def _restart(self, role: str) -> None:
        await self._stop(role)
        await self._start(role)

    async def _kill(self, role: str) -> None:
        """A crash: nobody told Docker."""
        if self.engine.is_up:
            self.engine.end(role)
            if role != "proxy":  # by its restart policy
                self.engine.begin(role)

    async def _reboot(self, role: str) -> None:
        if self.engine.is_up:
            await self.engine.crash_of_engine(is_killed=role == "pod")


async def play(
    loop: JumpingLoop, lag: float, wishes: list[tuple[float, str, str]]
) -> Engine:
    engine = Engine(loop, lag)
    for role in ("pod", "proxy", "app"):
        engine.begin(role)
        await asyncio.sleep(0.2)
    user = User(engine)
    registrar = Registrar(engine, Sink(), Options(internal=True))  # type: ignore[arg-type]
    running = asyncio.ensure_future(registrar.run())
    await asyncio.sleep(2)
    for pause, verb, role in wishes:
        user.do(verb, role)
        await asyncio.sleep(pause)
    await asyncio.gather(*user.tasks)
    await asyncio.sleep(200)
    assert not running.done(), running
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    return engine


def played(lag: float, wishes: list[tuple[float, str, str]]) -> Engine:
    loop = JumpingLoop()
    try:
        return loop.run_until_complete(play(loop, lag, wishes))
    finally:
        loop.close()


roles = st.sampled_from(["pod", "proxy", "app"])
verbs = st.sampled_from(["stop", "start", "restart", "kill", "reboot"])
pauses = st.sampled_from([0.0, 0.01, 0.05, 0.2, 1.0, 6.0, 40.0])
lags = st.sampled_from([0.001, 0.02, 0.3])


@settings(max_examples=300, deadline=None)
@given(lag=lags, wishes=st.lists(st.tuples(pauses, verbs, roles), max_size=6))
@example(lag=0.02, wishes=[(0.0, "restart", "pod"), (0.0, "restart", "proxy")])
@example(lag=0.3, wishes=[(0.0, "restart", "pod"), (0.0, "restart", "pod")])
@example(lag=0.02, wishes=[(0.0, "reboot", "pod")])
@example(lag=0.02, wishes=[(0.0, "reboot", "app")])
@example(lag=0.02, wishes=[(0.0, "stop", "proxy")])
def test_in_the_end_what_nobody_stopped_runs_where_it_should(
    lag: float, wishes: list[tuple[float, str, str]]
) -> None:
    engine = played(lag, wishes)
    pod, proxy, app = (engine.boxes[role] for role in ("pod", "proxy", "app"))
    if not pod.by_hand:
        assert pod.running
    if not pod.running:
        return

    if not proxy.by_hand:
        assert proxy.running
    if proxy.running:
        assert proxy.network == pod.network
        assert not proxy.has_stale_token
        if not app.by_hand:
            assert app.running
    if app.running:
        assert app.network == pod.network


@settings(max_examples=100, deadline=None)
@given(lag=lags, role=roles, pause=pauses)
def test_what_somebody_stopped_stays_so(lag: float, role: str, pause: float) -> None:
    engine = played(lag, [(pause, "stop", role)])
    assert not engine.boxes[role].running
