"""The two ends of all traffic: an app that says who it is, and a client that asks without a pause.

Runs in a pod's network, with the standard library alone.

    python app.py serve PORT NAME
    python app.py ask ROUTES        # JSON: [{"name", "host", "port", "authority", "path", "expect"}]

The client prints a line per request: route, start, end (of the system's monotonic clock, which all
processes share), 1 if the answer was the expected one, and what it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any

PATIENCE_S = 45.0
"""Requests wait for what is restarting; one that waits for longer than this has failed."""
PAUSE_S = 0.04

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def serve(port: int, name: str) -> None:
    """Answer every request with the name."""
    body = name.encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(answer)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(one, "0.0.0.0", port)
    await server.serve_forever()


async def request(
    streams: Streams, route: dict[str, Any], *, last: bool
) -> tuple[str, bool]:
    """Status and body of one request, and whether the connection takes no other."""
    reader, writer = streams
    closing = "connection: close\r\n" if last else ""
    writer.write(
        f"GET {route['path']} HTTP/1.1\r\nhost: {route['authority']}\r\n{closing}\r\n".encode()
    )
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0] or 0)
    body = (await reader.readexactly(length)).decode()
    return f"{head.split()[1]} {body.strip()}", "\r\nconnection: close" in head


async def ask(route: dict[str, Any]) -> None:
    """Ask for one route for ever: on one connection, or on a new one each time where `fresh`."""
    streams: Streams | None = None
    is_fresh = bool(route.get("fresh"))
    while True:
        is_ended = False
        begin = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if streams is None:
                    streams = await asyncio.open_connection(
                        route["host"], route["port"]
                    )
                got, is_ended = await request(streams, route, last=is_fresh)
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            got = repr(error)
        good = got.startswith(route["expect"])
        end = time.monotonic()
        print(
            f"{route['name']}\t{begin:.3f}\t{end:.3f}\t{good:d}\t{got[:120]!r}",
            flush=True,
        )
        if streams is not None and (is_fresh or is_ended or not good):
            streams[1].close()
            streams = None
        await asyncio.sleep(PAUSE_S)


async def main() -> None:
    """What the arguments say."""
    if sys.argv[1] == "serve":
        await serve(int(sys.argv[2]), sys.argv[3])
    else:
        await asyncio.gather(*(ask(route) for route in json.loads(sys.argv[2])))


if __name__ == "__main__":
    asyncio.run(main())
