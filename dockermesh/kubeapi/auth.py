"""Bearer tokens on our HTTP servers: compared in constant time, asked for on every path that is not said to be open."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def status(code: int, reason: str, message: str) -> web.Response:
    """An error as Kubernetes clients expect it: an object of kind Status."""
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.json_response(body, status=code)


def require_token(
    token: str, *, open_paths: frozenset[str] = frozenset()
) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that lets only requests with this bearer token through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
                return status(401, "Unauthorized", "a bearer token is needed: see 'dockermesh --help'")
        return await handler(request)

    return check
