"""Who may use our HTTP servers: holders of the bearer token, or on request anybody who is no browser.

Tokens are compared in constant time, and asked for on every path that is not said to be open.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web

from dockermesh.kubeapi.status import status

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[..., Awaitable[web.StreamResponse]]


def require_token(token: str, *, open_paths: frozenset[str] = frozenset()) -> Middleware:
    """A middleware that lets only requests with this bearer token through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path not in open_paths:
            scheme, _, given = request.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
                refusal = status(
                    401, "Unauthorized", "Unauthorized: a bearer token is needed; run `dockermesh kubeconfig`"
                )
                refusal.headers["WWW-Authenticate"] = "Bearer"
                return refusal
        return await handler(request)

    return check


def refuse_browsers() -> Middleware:
    """A middleware for a server without tokens: a web page that the user happens to visit must not reach it.

    Browsers name the page in `Origin`; a page that had its name rebound to this address shows it in `Host`.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Origin" in request.headers or not _is_local_name(request.host):
            return status(403, "Forbidden", "requests from web pages are refused while the API runs without tokens")
        return await handler(request)

    return check


def _is_local_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # Names without a dot are those of containers and of this host; public names have one.
        return "." not in name or name.endswith((".dockermesh", ".localhost", ".docker.internal"))
    return True
