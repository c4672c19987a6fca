"""Who may use our HTTP servers: holders of the bearer token, or on request anybody who is no
browser.

Tokens are compared in constant time, and asked for on every path that is not said to be open. Who
guesses is stopped; who has the token gets in all the same, since behind a port that Docker
publishes all clients have one address.
"""

from __future__ import annotations

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from dockermesh.http.answers import status
from dockermesh.http.connections import prove

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Middleware = Callable[..., Awaitable[web.StreamResponse]]
_MOST_ADDRESSES = 10_000


class FailureLimit:
    """How many failed attempts an address has: `burst` at once, then one a second. Others are not
    affected.
    """

    def __init__(
        self, burst: int = 30, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._clock = clock
        self._full_at: dict[str, float] = {}

    def is_spent(self, address: str) -> bool:
        """Whether the address has failed too often."""
        # One number for each address: when all of its failures will be paid off, one a second.
        return self._full_at.get(address, 0.0) - self._clock() > self._burst - 1

    def failed(self, address: str) -> None:
        """One more attempt failed."""
        now = self._clock()
        if len(self._full_at) >= _MOST_ADDRESSES:
            self._full_at = {
                known: at for known, at in self._full_at.items() if at > now
            }
            if len(self._full_at) >= _MOST_ADDRESSES:
                # Full of addresses that still have to pay: a new one goes free, but memory does
                # not grow.
                return
        self._full_at[address] = max(self._full_at.get(address, 0.0), now) + 1

    def forgive(self, address: str) -> None:
        """One attempt that was counted as failed was none."""
        if address in self._full_at:
            self._full_at[address] -= 1


class TokenGate:
    """Checks bearer tokens in constant time, and stops answering addresses that guess."""

    def __init__(
        self, token: str, limit: FailureLimit | None = None, reader: str = ""
    ) -> None:
        """`reader` is a second token, which opens the paths that are said to be for it alone."""
        self._token = token_bytes(token)
        self._reader = token_bytes(reader)
        self.limit = limit or FailureLimit()

    def refusal(
        self, request: web.Request, *, is_for_reader: bool = False
    ) -> web.Response | None:
        """The answer to a request without the token; None for one with it."""
        address, given = request.remote or "", bearer_of(request)
        # First, and at the same cost for every guess: a process that guesses must not lock out the
        # operator, who may have its address. What a right guess is told by its answer is no help
        # against 256 bits.
        is_token = hmac.compare_digest(token_bytes(given), self._token)
        is_reader = hmac.compare_digest(token_bytes(given), self._reader)
        if is_token or (is_reader and is_for_reader and self._reader):
            prove(request.transport)
            return None

        if self.limit.is_spent(address):
            return too_many()
        # No token at all is no guess.
        if given:
            self.limit.failed(address)

        refusal = status(
            401,
            "Unauthorized",
            "Unauthorized: a bearer token is needed; run `dockermesh kubeconfig`",
        )
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


def bearer_of(request: web.Request) -> str:
    """The bearer token of a request; empty if there is none."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return given.strip() if scheme.lower() == "bearer" else ""


def token_bytes(token: str) -> bytes:
    """What is compared or hashed of a token: never fails, whatever bytes a client sent as one."""
    # aiohttp hands bytes that are no UTF-8 on as lone surrogates, which plain `encode` refuses.
    return token.encode("utf-8", "surrogatepass")


def too_many() -> web.Response:
    """The answer to an address that guesses."""
    refusal = status(
        429,
        "TooManyRequests",
        "too many attempts with a wrong token; try again in a moment",
    )
    refusal.headers["Retry-After"] = "5"
    return refusal


def require_token(
    gate: TokenGate,
    *,
    open_paths: frozenset[str] = frozenset(),
    reader_paths: frozenset[str] = frozenset(),
) -> Middleware:
    """A middleware that lets only requests with the bearer token through."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in open_paths:
            return await handler(request)
        refusal = gate.refusal(request, is_for_reader=request.path in reader_paths)
        return refusal if refusal is not None else await handler(request)

    return check


def refuse_browsers() -> Middleware:
    """A middleware for a server without tokens: a web page that the user happens to visit must not
    reach it.

    Browsers name the page in `Origin`; a page that had its name rebound to this address shows it in
    `Host`.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if "Origin" in request.headers or not _is_local_name(request.host):
            return status(
                403,
                "Forbidden",
                "requests from web pages are refused while the API runs without tokens",
            )
        return await handler(request)

    return check


def _is_local_name(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    name = name.strip("[]").lower()
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # Names without a dot are those of containers and of this host; public names have one.
        return "." not in name or name.endswith(
            (".dockermesh", ".localhost", ".docker.internal")
        )
    return True
