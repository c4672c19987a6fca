"""`/debug/traffic` of the control plane: what all proxies counted, as JSON."""

from __future__ import annotations

import asyncio
import json

from aiohttp import web

from dockermesh.controlplane.traffic.looking import Looking


def add_traffic_route(app: web.Application, looking: Looking) -> None:
    """Serve the counts; who asks for them makes the control plane ask the proxies."""

    async def traffic(_: web.Request) -> web.Response:
        report = await looking.look()
        # Of a large mesh some megabytes, while which streams must go on.
        text = await asyncio.to_thread(json.dumps, report)
        return web.Response(text=text, content_type="application/json")

    app.router.add_get("/debug/traffic", traffic)
