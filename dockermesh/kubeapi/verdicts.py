"""How many writes were valid and how many were not, by kind."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from aiohttp import web

from dockermesh.http.auth import Handler
from dockermesh.kubeapi.served import find

Kind = tuple[str, str, str]
"""Group, version, plural."""
_WRITES = frozenset({"POST", "PUT", "PATCH"})
_REASONS = {400: "yaml_decode_error", 422: "invalid_resource"}
"""Istio's, by the status that a client is answered with."""


@dataclass(slots=True)
class Verdicts:
    """Counts since the start. What cannot be stored for another reason is in none of them."""

    passed: Counter[Kind] = field(default_factory=Counter)
    failed: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def take(self, request: web.Request, status: int) -> None:
        """A request was answered."""
        info = request.match_info
        kind = (info.get("group", ""), info.get("version", ""), info.get("plural", ""))
        # The kinds that there are, and no other names: those are the client's choice.
        if request.method not in _WRITES or find(*kind) is None:
            return
        if "dryRun" in request.query:
            return
        if status in {200, 201}:
            self.passed[kind] += 1
        elif status in _REASONS:
            self.failed[kind, _REASONS[status]] += 1

    @web.middleware
    async def middleware(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Counts what comes by, once it is answered."""
        answer = await handler(request)
        self.take(request, answer.status)
        return answer
