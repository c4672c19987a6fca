"""The HTTP interface of trust, on the config API's port below `/mesh/`: the CA and its rotation,
tokens, joining.

Invariant: every request needs the API token, also where the config API itself is served without;
but who joins shows a join token instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from dockermesh.ca import Step
from dockermesh.controlplane.trust.tokens import NotAllowed, Tokens
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.errors import DockermeshError, NotReadyError, UsageError
from dockermesh.http.answers import status
from dockermesh.http.auth import TokenGate, bearer_of, too_many

CA_PATH = "/mesh/ca"
TOKENS_PATH = "/mesh/tokens"
JOIN_PATH = "/mesh/join"
Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_trust_routes(app: web.Application, trust: Trust, tokens: Tokens, gate: TokenGate) -> None:
    """Add the routes to an application."""

    def guarded(handler: Handler) -> Handler:
        async def guard(request: web.Request) -> web.Response:
            refusal = gate.refusal(request)
            return refusal if refusal is not None else await _answered(handler, request)

        return guard

    async def show(_: web.Request) -> web.Response:
        return web.json_response(trust.status())

    async def roots(_: web.Request) -> web.Response:
        return web.json_response({"roots": trust.authority.roots_pem.decode()})

    async def rotate(request: web.Request) -> web.Response:
        asked = await body_of(request)
        step, force = asked.get("step"), asked.get("force", False)
        if step not in set(Step) or not isinstance(force, bool):
            raise UsageError(
                f"no step of a rotation: {step!r}", fix=f"use one of: {', '.join(Step)}"
            )
        blocked = await trust.rotate(Step(step), force=force)
        return web.json_response(trust.status() | {"blocked": blocked, "taken": not blocked})

    async def tokens_list(_: web.Request) -> web.Response:
        return web.json_response(tokens.listing())

    async def tokens_create(request: web.Request) -> web.Response:
        return web.json_response(await tokens.create(await body_of(request)), status=201)

    async def tokens_revoke(request: web.Request) -> web.Response:
        asked = await body_of(request)
        return web.json_response(await tokens.revoke(str(asked.get("token", ""))))

    async def join(request: web.Request) -> web.Response:
        address = request.remote or ""
        if gate.limit.is_spent(address):
            return too_many()
        try:
            joined = await tokens.join(bearer_of(request), await body_of(request))
        except NotAllowed as error:
            # This path is open to all: guessing is what it has to withstand.
            gate.limit.failed(address)
            return status(401, "Unauthorized", f"{error.what}: {error.fix}")
        # With them the process knows whom it talks to, from its first connection on.
        roots = trust.authority.roots_pem.decode()
        return web.json_response(
            {"workload": joined.name, "namespace": joined.namespace, "roots": roots}, status=201
        )

    async def answered_join(request: web.Request) -> web.Response:
        return await _answered(join, request)

    app.router.add_get(TOKENS_PATH, guarded(tokens_list))
    app.router.add_post(TOKENS_PATH, guarded(tokens_create))
    app.router.add_post(f"{TOKENS_PATH}/revoke", guarded(tokens_revoke))
    app.router.add_post(JOIN_PATH, answered_join)
    app.router.add_get(CA_PATH, guarded(show))
    app.router.add_get(f"{CA_PATH}/roots", guarded(roots))
    app.router.add_post(f"{CA_PATH}/rotate", guarded(rotate))


async def body_of(request: web.Request) -> dict[str, Any]:
    """The JSON object that was sent. Raises UsageError when it is none."""
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UsageError("the body is no JSON object")
    return found


async def _answered(handler: Handler, request: web.Request) -> web.Response:
    try:
        return await handler(request)
    except NotReadyError as error:
        return status(503, "ServiceUnavailable", error.what)
    except DockermeshError as error:
        return status(
            409,
            "Conflict",
            f"{error.what}. {error.fix}".removesuffix(". ") if error.fix else error.what,
        )
