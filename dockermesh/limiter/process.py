"""The process of the limiter: serves until its orders end.

A process of its own, as its work must never delay what proxies are told: in the control plane's
own one both would share one interpreter.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
import traceback

from dockermesh.errors import DockermeshError
from dockermesh.limiter.memory import MemoryCounts
from dockermesh.limiter.orders import Report, read_orders
from dockermesh.limiter.redis_counts import RedisCounts
from dockermesh.limiter.server import LimitServer
from dockermesh.limiter.service import Counts, InMemory, LimitService

_REPORT_S = 1.0
_ALIVE_S = 5.0
"""How often it says how it is if nothing is new: its silence tells that it hangs."""
_SWEEP_S = 30.0


class Limiter:
    """A service, its port, and where it counts; `redis` is a URL, empty for memory."""

    def __init__(self, address: str, redis: str) -> None:
        self._memory = MemoryCounts()
        self._redis = RedisCounts(redis) if redis else None
        counts: Counts = self._redis or InMemory(self._memory)
        self.service = LimitService(counts)
        self.server = LimitServer(self.service, address)

    def report(self) -> Report:
        """How it is now."""
        counted = self.service.answers.counted
        return Report(
            port=self.server.port,
            problem=self._redis.problem if self._redis is not None else "",
            buckets=len(self._memory),
            evicted=self._memory.evicted,
            undecided=self.service.undecided,
            decisions=tuple((n, o, count) for (n, o), count in sorted(counted.items())),
        )

    async def run(self) -> None:
        """What it does beside answering; never ends, but by what goes wrong."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._sweep())
            if self._redis is not None:
                tasks.create_task(self._redis.run())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            self._memory.sweep()


async def obey(address: str, redis: str) -> None:
    """Serve what orders on standard input say, until they end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(0, "rb", closefd=False)
    )
    limiter = Limiter(address, redis)
    # What fails beside the orders ends them: the process is started again, and says why.
    async with asyncio.TaskGroup() as tasks:
        own = [tasks.create_task(limiter.run())]
        while (orders := await read_orders(reader)) is not None:
            if orders.domains is not None:
                limiter.service.take(orders.domains)
            if orders.identity is not None:
                limiter.server.show(orders.identity)
            # Not before it knows whom to take.
            if not limiter.server.port:
                limiter.server.listen()
                own.append(tasks.create_task(limiter.server.run()))
                own.append(tasks.create_task(_keep_reporting(limiter)))
        for task in own:
            task.cancel()


async def _keep_reporting(limiter: Limiter) -> None:
    last: Report | None = None
    told = 0.0
    while True:
        report, now = limiter.report(), time.monotonic()
        if report != last or now - told >= _ALIVE_S:
            _tell(report)
            last, told = report, now
        await asyncio.sleep(_REPORT_S)


def _tell(report: Report) -> None:
    with contextlib.suppress(OSError):
        os.write(1, report.line())


def main() -> int:
    """Of the child process: its arguments are the address and Redis."""
    address, redis = sys.argv[1:3]
    status = 0
    try:
        asyncio.run(obey(address, redis))
    except* DockermeshError as errors:
        first = _first(errors)
        assert isinstance(first, DockermeshError)
        _tell(Report(problem=f"{first.what}; {first.fix}"))
        status = 1
    except* Exception as errors:
        traceback.print_exception(errors)
        _tell(Report(problem=f"the limiter failed: {_first(errors)!r}"))
        status = 1
    except* KeyboardInterrupt:
        pass
    return status


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


if __name__ == "__main__":
    sys.exit(main())
