"""The HTTP interface of trust, on the config API's port below `/mesh/`: the CA and its rotation.

Invariant: every request needs the API token, also where the config API itself is served without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from dockermesh.app.trust import Trust
from dockermesh.ca import Step
from dockermesh.errors import DockermeshError, NotReadyError, UsageError
from dockermesh.kubeapi.auth import TokenGate
from dockermesh.kubeapi.status import status

CA_PATH = "/mesh/ca"
Handler = Callable[[web.Request], Awaitable[web.Response]]


def add_trust_routes(app: web.Application, trust: Trust, gate: TokenGate) -> None:
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
            raise UsageError(f"no step of a rotation: {step!r}", fix=f"use one of: {', '.join(Step)}")
        blocked = await trust.rotate(Step(step), force=force)
        return web.json_response(trust.status() | {"blocked": blocked, "taken": not blocked})

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
        return status(409, "Conflict", f"{error.what}. {error.fix}".removesuffix(". ") if error.fix else error.what)
