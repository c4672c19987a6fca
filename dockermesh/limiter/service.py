"""The methods that the limiter serves: `ShouldRateLimit`, and gRPC's health check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from dockermesh.limiter.answers import Answers
from dockermesh.limiter.http2 import Handler, Reply, Status
from dockermesh.limiter.memory import MemoryCounts, Verdicts
from dockermesh.limiter.plan import Plan, Planner, UnreadableError
from dockermesh.model.rate_limits import LimitDomains

DECIDE = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"

OnDecided = Callable[[Verdicts | None], None]
"""Is told what was decided; None if nothing could be."""


class Counts(Protocol):
    """Where it is counted."""

    def decide(self, plan: Plan, on_decided: OnDecided) -> None:
        """Take what a question asks for, if all of it is there; tells at once or later."""


class InMemory:
    """Counts that are at hand."""

    def __init__(self, counts: MemoryCounts) -> None:
        self._counts = counts

    def decide(self, plan: Plan, on_decided: OnDecided) -> None:
        """At once."""
        on_decided(self._counts.decide(plan))


class LimitService:
    """Answers calls by the limits that it was told last."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._planner = Planner()
        self.answers = Answers()
        self.undecided = 0

    def take(self, domains: LimitDomains) -> None:
        """New limits. What was counted stays."""
        self._planner.take(domains)

    def handler(self, asked: str) -> Handler:
        """Takes the calls of a connection to the limiter of this name."""

        def handle(path: str, message: bytes, reply: Reply) -> None:
            if path == DECIDE:
                self._decide(asked, message, reply)
            elif path == HEALTH:
                reply(_SERVING, Status.OK)
            else:
                reply(None, Status.UNIMPLEMENTED)

        return handle

    def _decide(self, asked: str, message: bytes, reply: Reply) -> None:
        try:
            plan = self._planner.plan(asked, message)
        except UnreadableError:
            reply(None, Status.INVALID_ARGUMENT)
            return
        if not any(plan):
            reply(self.answers.answer(plan, [None] * len(plan)), Status.OK)
            return

        def decided(verdicts: Verdicts | None) -> None:
            if verdicts is None:
                # What follows, the proxy knows: it lets pass or refuses, as the limit says.
                self.undecided += 1
                reply(None, Status.UNAVAILABLE)
            else:
                reply(self.answers.answer(plan, verdicts), Status.OK)

        self._counts.decide(plan, decided)
