"""Where `dockermesh apply` brings the modules that resources name as files: below `/mesh/modules/`,
on the config API's port, for holders of the API token alone.
"""

from __future__ import annotations

import re

from aiohttp import web

from dockermesh.controlplane.modules import LARGEST, Modules
from dockermesh.errors import UsageError
from dockermesh.http import answers
from dockermesh.http.auth import TokenGate
from dockermesh.http.bodies import TooLarge, read_bounded
from dockermesh.model.contract import MODULES_PATH

_SHA256 = re.compile(r"[0-9a-f]{64}")


def add_module_routes(app: web.Application, modules: Modules, gate: TokenGate) -> None:
    """Add the routes to an application."""

    async def show(request: web.Request) -> web.Response:
        refusal = gate.refusal(request)
        if refusal is not None:
            return refusal
        return web.json_response({"stored": await modules.has(_name_in(request))})

    async def take(request: web.Request) -> web.Response:
        refusal = gate.refusal(request)
        if refusal is not None:
            return refusal
        try:
            await modules.store(_name_in(request), await _content_of(request))
        except UsageError as error:
            return answers.status(400, "BadRequest", str(error))
        except OSError as error:
            return answers.status(
                507, "InsufficientStorage", f"it cannot be kept: {error.strerror}"
            )
        return web.json_response({"stored": True})

    path = f"{MODULES_PATH}/{{sha256}}"
    app.add_routes([web.get(path, show), web.put(path, take)])


def _name_in(request: web.Request) -> str:
    name = request.match_info["sha256"]
    if not _SHA256.fullmatch(name):
        raise web.HTTPNotFound
    return name


async def _content_of(request: web.Request) -> bytes:
    # Not by `read`, whose bound is that of resources.
    try:
        return await read_bounded(request.content, LARGEST)
    except TooLarge:
        raise UsageError(
            f"the module is larger than {LARGEST >> 20} MiB", fix="make it smaller"
        ) from None
