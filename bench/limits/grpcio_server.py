"""The limiter's decisions served by grpcio: what a library costs. Its argument is a port."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio

from dockermesh.limiter.answers import Answers
from dockermesh.limiter.memory import MemoryCounts
from dockermesh.limiter.plan import Planner
from dockermesh.limiter.service import DECIDE
from dockermesh.model.rate_limits import CountedLimit, LimitNode, Per, Rate


class Handler(grpc.GenericRpcHandler):
    """Hands bytes over, as our own server does."""

    def __init__(self) -> None:
        limit = LimitNode(CountedLimit("users", Rate(1000, Per.SECOND, 1000)))
        self._planner = Planner()
        self._planner.take({("", "bench"): LimitNode(any_value={"user": limit})})
        self._counts = MemoryCounts()
        self._answers = Answers()

    def service(self, handler_call_details: Any) -> Any:
        """The one method."""
        if handler_call_details.method != DECIDE:
            return None
        return grpc.unary_unary_rpc_method_handler(self._decide)

    async def _decide(self, message: bytes, _context: Any) -> bytes:
        plan = self._planner.plan("", message)
        return self._answers.answer(plan, self._counts.decide(plan))


async def serve(port: str) -> None:
    """Until it is killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Handler(),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
