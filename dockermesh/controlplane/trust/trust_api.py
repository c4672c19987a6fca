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
from dockermesh.controlplane.trust.tokens import NO_JOIN_TOKEN, NotAllowed, Tokens
from dockermesh.controlplane.trust.trust import Trust
from dockermesh.errors import DockermeshError, NotReadyError, UsageError
from dockermesh.http import answers
from dockermesh.http.auth import TokenGate, bearer_of, too_many

CA_PATH = "/mesh/ca"
TOKENS_PATH = "/mesh/tokens"
JOIN_PATH = "/mesh/join"
Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_trust_routes(
    app: web.Application, trust: Trust, tokens: Tokens, gate: TokenGate
) -> None:
    """Add the routes to an application."""
    api = _TrustApi(trust, tokens, gate)
    app.add_routes(
        [
            web.get(TOKENS_PATH, api.guarded(api.list_tokens)),
            web.post(TOKENS_PATH, api.guarded(api.create_token)),
            web.post(f"{TOKENS_PATH}/revoke", api.guarded(api.revoke_token)),
            web.get(CA_PATH, api.guarded(api.show)),
            web.get(f"{CA_PATH}/roots", api.guarded(api.roots)),
            web.post(f"{CA_PATH}/rotate", api.guarded(api.rotate)),
            # Not guarded: who joins has no API token.
            web.post(JOIN_PATH, api.join),
        ]
    )


class _TrustApi:
    """The handlers, each a request and an answer."""

    def __init__(self, trust: Trust, tokens: Tokens, gate: TokenGate) -> None:
        self._trust = trust
        self._tokens = tokens
        self._gate = gate

    def guarded(self, handler: Handler) -> Handler:
        """The handler for holders of the API token alone."""

        async def guard(request: web.Request) -> web.Response:
            refusal = self._gate.refusal(request)
            return refusal if refusal is not None else await _answered(handler, request)

        return guard

    async def show(self, _: web.Request) -> web.Response:
        return web.json_response(await self._trust.status())

    async def roots(self, _: web.Request) -> web.Response:
        return web.json_response({"roots": self._trust.authority.roots_pem.decode()})

    async def rotate(self, request: web.Request) -> web.Response:
        asked = await body_of(request)
        step, force = asked.get("step"), asked.get("force", False)
        if step not in set(Step) or not isinstance(force, bool):
            raise UsageError(
                f"no step of a rotation: {step!r}", fix=f"use one of: {', '.join(Step)}"
            )

        blocked = await self._trust.rotate(Step(step), force=force)
        status = await self._trust.status()
        return web.json_response(status | {"blocked": blocked, "taken": not blocked})

    async def list_tokens(self, _: web.Request) -> web.Response:
        return web.json_response(self._tokens.listing())

    async def create_token(self, request: web.Request) -> web.Response:
        return web.json_response(
            await self._tokens.create(await body_of(request)), status=201
        )

    async def revoke_token(self, request: web.Request) -> web.Response:
        asked = await body_of(request)
        return web.json_response(await self._tokens.revoke(str(asked.get("token", ""))))

    async def join(self, request: web.Request) -> web.Response:
        return await _answered(self._join, request)

    async def _join(self, request: web.Request) -> web.Response:
        address, token = request.remote or "", bearer_of(request)
        # This path is open to all: guessing is what it has to withstand. As at the gate, who has a
        # token is not locked out; and no body is waited for, during which others could be tried.
        if not self._tokens.may_join(token):
            if self._gate.limit.is_spent(address):
                return too_many()
            self._gate.limit.failed(address)
            return _not_allowed(*NO_JOIN_TOKEN)

        try:
            joined = await self._tokens.join(token, await body_of(request))
        except NotAllowed as error:
            return _not_allowed(error.what, error.fix)

        # With them the process knows whom it talks to, from its first connection on.
        roots = self._trust.authority.roots_pem.decode()
        return web.json_response(
            {"workload": joined.name, "namespace": joined.namespace, "roots": roots},
            status=201,
        )


def _not_allowed(what: str, fix: str) -> web.Response:
    return answers.status(401, "Unauthorized", f"{what}: {fix}")


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
        return answers.status(503, "ServiceUnavailable", error.what)
    except DockermeshError as error:
        return answers.status(
            409,
            "Conflict",
            f"{error.what}. {error.fix}".removesuffix(". ")
            if error.fix
            else error.what,
        )
