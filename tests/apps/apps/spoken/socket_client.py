"""socket_client.py HOST PORT: says three things over a WebSocket, and prints the echoes."""

import asyncio
import sys

import websockets


async def main():
    async with websockets.connect(f"ws://{sys.argv[1]}:{sys.argv[2]}/") as server:
        for word in ("one", "two", "three"):
            await server.send(word)
            print(await server.recv())


asyncio.run(main())
