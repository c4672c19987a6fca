"""The HTTP door through which `ads_load.py --change url` changes the mesh, the same for every
Python server here.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

Change = Callable[[str, str, str], None]
"""(op, service, ip)"""


async def listen(port: int, change: Change) -> None:
    """Answer POST /change?op=add|remove&service=..&ip=.."""

    async def handle(request: web.Request) -> web.Response:
        change(request.query["op"], request.query["service"], request.query["ip"])
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_post("/change", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
