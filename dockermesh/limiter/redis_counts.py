"""Counts in Redis, which several limiters share.

The questions of a moment go there together, and one script decides them one after the other, by
Redis' own clock: so it is exact for all limiters. Invariants: a decision takes `_PATIENCE_S` at
most (`?socket_timeout=` in the URL says otherwise), and no time at all while Redis is known to be
away; what cannot be decided is said to be so, and never guessed. Each bucket expires when it would
be empty, so Redis keeps no more than is in use.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import redis.asyncio as redis
from redis.exceptions import NoScriptError, RedisError

from dockermesh.limiter.memory import Verdicts, verdict_of
from dockermesh.limiter.plan import Plan, Share
from dockermesh.limiter.service import OnDecided

_PREFIX = b"dockermesh/limit/"
_PATIENCE_S = 0.2
_RETRY_S = 0.25
_MOST_AT_ONCE = 200
_MOST_WAITING = 5_000

# ARGV: for each question its shares: of each its cost, leak, size, hits, and 1 if it is a dry run,
# with spaces between. KEYS: their buckets. For each share: whether it is over, and the
# level then. A bucket is when it was filled last, in microseconds, and to which level.
SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local found, key = {}, 0
for _, question in ipairs(ARGV) do
  local levels, filled, refused = {}, {}, false
  for cost, leak, size, hits, shadow in string.gmatch(question, '(%d+) (%d+) (%d+) (%d+) (%d)') do
    key = key + 1
    local name = KEYS[key]
    local level = levels[name]
    if not level then
      level = 0
      local known = redis.call('GET', name)
      if known then
        local since, was = string.match(known, '^(%d+) (%d+)$')
        level = math.max(0, was - math.max(0, now - since) * leak)
      end
    end
    local more = level + hits * cost
    if more > tonumber(size) then
      refused = refused or shadow == '0'
      found[#found + 1] = 1
    else
      level = more
      filled[name] = leak
      found[#found + 1] = 0
    end
    levels[name] = level
    found[#found + 1] = string.format('%.0f', level)
  end
  if not refused then
    for name, leak in pairs(filled) do
      local expiry = math.ceil(levels[name] / leak / 1000) + 1
      local value = string.format('%.0f %.0f', now, levels[name])
      redis.call('SET', name, value, 'PX', string.format('%.0f', expiry))
    end
  end
end
return found
"""


class RedisCounts:
    """Decides in the order of the questions; `run` keeps the way to Redis."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = self._connect()
        said = self._client.connection_pool.connection_kwargs
        self._patience = float(said["socket_timeout"])
        self._sha = ""
        self._waiting: deque[tuple[Plan, OnDecided]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self.problem = "Redis has not answered yet"

    def _connect(self) -> Any:
        return redis.Redis.from_url(
            self._url,
            single_connection_client=True,
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
            retry=None,
            retry_on_error=[],
        )

    def decide(self, plan: Plan, on_decided: OnDecided) -> None:
        """Tells later, or at once that nothing can be decided."""
        if self.problem or len(self._waiting) >= _MOST_WAITING:
            on_decided(None)
            return
        self._waiting.append((plan, on_decided))
        if self._sending is None:
            self._sending = asyncio.ensure_future(self._send())

    async def run(self) -> None:
        """Try again and again while Redis is away."""
        try:
            while True:
                if self.problem:
                    await self._try()
                await asyncio.sleep(_RETRY_S)
        finally:
            await self._client.aclose()

    async def _try(self) -> None:
        try:
            async with asyncio.timeout(self._patience):
                self._sha = await self._client.script_load(SCRIPT)
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            await self._reset()
            return
        self.problem = ""

    def _lose(self, error: BaseException) -> None:
        what = str(error) or "it does not answer in time"
        self.problem = f"Redis cannot be used: {what}"

    async def _reset(self) -> None:
        # An answer that is still on its way must not be taken for that to the next question.
        old, self._client = self._client, self._connect()
        try:
            async with asyncio.timeout(self._patience):
                await old.aclose()
        except (RedisError, OSError, TimeoutError):
            pass

    async def _send(self) -> None:
        try:
            while self._waiting:
                some = [
                    self._waiting.popleft()
                    for _ in range(min(len(self._waiting), _MOST_AT_ONCE))
                ]
                found = await self._ask([plan for plan, _ in some])
                for number, (_, on_decided) in enumerate(some):
                    on_decided(found[number] if found is not None else None)
                if found is None:
                    self._give_up()
        finally:
            self._sending = None

    def _give_up(self) -> None:
        """Nobody waits for a Redis that is away."""
        while self._waiting:
            self._waiting.popleft()[1](None)

    async def _ask(self, plans: list[Plan]) -> list[Verdicts] | None:
        keys, arguments = _question(plans)
        try:
            async with asyncio.timeout(self._patience):
                try:
                    answer = await self._client.evalsha(
                        self._sha, len(keys), *keys, *arguments
                    )
                except NoScriptError:
                    # Redis was restarted, or its scripts were flushed.
                    answer = await self._client.eval(
                        SCRIPT, len(keys), *keys, *arguments
                    )
        except (RedisError, OSError, TimeoutError) as error:
            self._lose(error)
            await self._reset()
            return None
        return _verdicts(plans, answer)


def _question(plans: list[Plan]) -> tuple[list[bytes], list[bytes]]:
    """The keys and arguments of the script."""
    shares = [[share for share in plan if share is not None] for plan in plans]
    keys = [_PREFIX + s.table.encode() + b"\0" + s.key for own in shares for s in own]
    return keys, [b" ".join(map(_measures, own)) for own in shares]


def _measures(share: Share) -> bytes:
    bucket, shadow = share.bucket, share.limit.shadow
    return b"%d %d %d %d %d" % (
        *(bucket.cost, bucket.leak, bucket.size),
        *(share.hits, shadow),
    )


def _verdicts(plans: list[Plan], answer: list[Any]) -> list[Verdicts]:
    found: list[Verdicts] = []
    values = iter(answer)
    for plan in plans:
        verdicts: Verdicts = []
        for share in plan:
            if share is None:
                verdicts.append(None)
            else:
                is_over, level = bool(next(values)), int(next(values))
                verdicts.append(verdict_of(share, level, is_over=is_over))
        found.append(verdicts)
    return found
