"""Several limiters count in one real Redis, exactly; and what follows when it dies, hangs, and comes
back.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis
from bridge_rig import eventually
from limiter_rig import RedisServer, RunningLimiter, taken
from patience import until
from policy_rig import Certificates, Envoy, ask, serve, sidecar_parts
from ports import free_ports

from dockermesh.limiter.bucket import bucket_of
from dockermesh.limiter.memory import MemoryCounts, Verdicts, is_refused
from dockermesh.limiter.plan import Plan, Share
from dockermesh.limiter.redis_counts import RedisCounts
from dockermesh.model.rate_limits import CountedLimit, Per, Rate


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path)
    made.start()
    yield made
    made.kill()


def share(
    requests: int, burst: int, per: Per = Per.SECOND, name: str = "x", key: bytes = b""
) -> Share:
    rate = Rate(requests, per, burst)
    return Share(CountedLimit(name, rate), bucket_of(rate), name, key, 1)


@contextlib.asynccontextmanager
async def counting(
    server: RedisServer, patience: float = 20.0
) -> AsyncIterator[RedisCounts]:
    counts = RedisCounts(f"{server.url}?socket_timeout={patience}")
    running = asyncio.ensure_future(counts.run())
    try:
        await usable(counts)
        yield counts
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def usable(counts: RedisCounts) -> None:
    await eventually(lambda: not counts.problem, 60)


async def decide(counts: RedisCounts, plan: Plan) -> Verdicts | None:
    found: asyncio.Future[Verdicts | None] = asyncio.get_running_loop().create_future()
    counts.decide(plan, found.set_result)
    return await found


async def passes(counts: RedisCounts, plan: Plan) -> bool:
    verdicts = await decide(counts, plan)
    assert verdicts is not None
    return not is_refused(plan, verdicts)


async def test_three_limiters_let_pass_what_one_would(server: RedisServer) -> None:
    plan = (share(100, 10),)
    async with (
        counting(server) as one,
        counting(server) as two,
        counting(server) as three,
    ):
        limiters = (one, two, three)
        began, passed = time.monotonic(), 0
        times = []
        for number in range(1000):
            await asyncio.sleep(max(0, began + number / 200 - time.monotonic()))
            times.append(time.monotonic())
            passed += await passes(limiters[number % 3], plan)

    assert passed == pytest.approx(taken(times, rate=100, burst=10), rel=0.02)


async def test_it_decides_as_memory_does(server: RedisServer) -> None:
    """Of a rate so slow that no time passes."""
    memory = MemoryCounts()
    wide, narrow = share(5, 5, Per.YEAR, "wide"), share(2, 2, Per.YEAR, "narrow")
    plans: list[Plan] = [
        *((wide, narrow) for _ in range(4)),
        (None, wide),
        (wide, wide),
        (wide, wide),
        (share(2, 2, Per.YEAR, "narrow", b"other"), None, narrow),
    ]
    async with counting(server) as counts:
        for plan in plans:
            mine, theirs = memory.decide(plan), await decide(counts, plan)
            assert theirs is not None
            assert [v and (v.is_over, v.remaining) for v in mine] == [
                v and (v.is_over, v.remaining) for v in theirs
            ]


async def test_many_at_once_are_few_questions_to_redis(server: RedisServer) -> None:
    plan = (share(300, 300, Per.YEAR),)
    client = redis.Redis(port=server.port)
    async with counting(server) as counts:
        before = client.info("stats")["total_commands_processed"]
        found = await asyncio.gather(*(passes(counts, plan) for _ in range(500)))
        # The script's own commands are counted, too: two or so for each decision.
        calls = client.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert sum(found) == 300
    assert calls <= 10
    assert before


async def test_buckets_expire_when_they_are_empty(server: RedisServer) -> None:
    client = redis.Redis(port=server.port)
    async with counting(server) as counts:
        plans = [(share(10, 10, key=b"%d" % number),) for number in range(10_000)]
        for start in range(0, len(plans), 1000):
            part = plans[start : start + 1000]
            assert all(await asyncio.gather(*(passes(counts, p) for p in part)))
        left = [client.pttl(key) for key in client.scan_iter(count=1000)]
        assert all(0 <= ttl <= 102 or ttl == -2 for ttl in left)
        await eventually(lambda: not client.dbsize(), 60)


async def test_while_redis_is_dead_nothing_is_decided_and_counts_outlive_it(
    server: RedisServer,
) -> None:
    plan = (share(5, 5, Per.YEAR),)
    async with counting(server) as counts:
        assert [await passes(counts, plan) for _ in range(3)] == [True] * 3
        server.kill()
        began = time.monotonic()
        assert [await decide(counts, plan) for _ in range(100)] == [None] * 100
        assert "Redis cannot be used" in counts.problem
        # The first may have waited, no other did.
        assert time.monotonic() - began < 2.0

        server.start()
        await usable(counts)
        assert [await passes(counts, plan) for _ in range(3)] == [True, True, False]


async def test_a_redis_that_hangs_is_waited_for_once(server: RedisServer) -> None:
    plan = (share(5, 5, Per.YEAR),)
    async with counting(server, patience=1.0) as counts:
        assert await passes(counts, plan)
        os.kill(server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert await asyncio.gather(*(decide(counts, plan) for _ in range(50))) == (
                [None] * 50
            )
            first = time.monotonic() - began
            assert await decide(counts, plan) is None
            assert first > 0.1
            assert time.monotonic() - began - first < 0.1 * 10
        finally:
            os.kill(server.pid, signal.SIGCONT)
        await usable(counts)
        # What it took while it hung is nobody's: an answer of then is not one to this.
        verdicts = await decide(counts, (share(1, 1, Per.YEAR, "new"),))
        assert verdicts is not None
        assert verdicts[0] is not None
        assert not verdicts[0].is_over


async def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer) -> None:
    plan = (share(2, 2, Per.YEAR),)
    async with counting(server) as counts:
        assert await passes(counts, plan)
        redis.Redis(port=server.port).script_flush()
        assert await passes(counts, plan)
        assert not await passes(counts, plan)


LIMITS = """
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: open, namespace: shop}
spec:
  mode: GLOBAL
  limits: [{name: few, requests: 4, unit: HOUR, match: {paths: [/open]}}]
---
apiVersion: dockermesh.io/v1alpha1
kind: RateLimit
metadata: {name: closed, namespace: shop}
spec:
  mode: GLOBAL
  failureMode: CLOSED
  limits: [{name: few, requests: 4, unit: HOUR, match: {paths: [/closed]}}]
"""


@pytest.mark.binary
def test_proxies_of_two_limiters_while_redis_comes_and_goes(
    server: RedisServer, tmp_path: Path
) -> None:
    app, ports, envoys = serve(), free_ports(2), []
    certificates = Certificates(tmp_path)
    url = f"{server.url}?socket_timeout=0.4"
    limiters = [RunningLimiter(certificates, url) for _ in ports]
    try:
        for port, limiter in zip(ports, limiters, strict=True):
            limiter.start(LIMITS)
            own = tmp_path / str(port)
            own.mkdir()
            part = sidecar_parts(
                LIMITS, {port: ("HTTP", app)}, [], certificates, limiter.settings
            )
            envoys.append(Envoy(own, [part], [port]))

        def statuses(path: str, count: int) -> list[int]:
            return [ask(ports[n % 2], path).status for n in range(count)]

        until(lambda: statuses("/closed", 1) == [200], "the limiter has Redis", 30)
        until(lambda: ask(ports[1], "/closed").status == 200, "and the other", 30)
        assert statuses("/open", 3) == [200] * 3
        left = statuses("/closed", 4).count(200)
        assert left <= 2

        server.kill()
        assert statuses("/open", 8) == [200] * 8
        assert statuses("/closed", 8) == [503] * 8
        assert statuses("/free", 8) == [200] * 8

        server.start()
        until(lambda: 503 not in statuses("/closed", 2), "Redis is used again", 30)
        # From before: of four, three were taken.
        assert statuses("/open", 4).count(200) == 1
        assert statuses("/closed", 4) == [429] * 4
    finally:
        for envoy in envoys:
            envoy.stop()
        for limiter in limiters:
            limiter.kill()
