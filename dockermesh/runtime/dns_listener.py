"""Taking DNS questions over UDP and TCP, for whoever has the answers.

Invariants: what clients send costs themselves alone; how much is under way is bounded, and what
comes on top of it is dropped, which DNS clients expect and repeat.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from typing import Any

_LENGTH = struct.Struct("!H")
_MOST_UNDER_WAY = 512


class DnsListener(asyncio.DatagramProtocol):
    """The protocol of a UDP socket, and with `converse` what a TCP server calls. A question gets no
    answer where that is None; over TCP that ends the connection.
    """

    def __init__(
        self,
        over_udp: Callable[[bytes], Awaitable[bytes | None]],
        over_tcp: Callable[[bytes], Awaitable[bytes | None]],
        *,
        connections: int,
        idle_s: float,
    ) -> None:
        """At most so many connections, each for so long without a word."""
        self._over_udp = over_udp
        self._over_tcp = over_tcp
        self._most_connections = connections
        self._idle_s = idle_s
        self._udp: Any = None
        self._under_way: set[asyncio.Task[None]] = set()
        self._connections = 0

    def close(self) -> list[asyncio.Task[None]]:
        """Answer nobody any more. Returns what ends now."""
        if self._udp is not None:
            self._udp.close()
        for task in self._under_way:
            task.cancel()
        return [*self._under_way]

    # -- UDP

    def connection_made(self, transport: Any) -> None:
        self._udp = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if len(self._under_way) < _MOST_UNDER_WAY:
            self._hold(asyncio.ensure_future(self._reply(data, addr)))

    def _hold(self, task: asyncio.Task[None]) -> None:
        # The loop itself holds tasks weakly.
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _reply(self, message: bytes, peer: Any) -> None:
        answer = await self._over_udp(message)
        if answer is not None and not self._udp.is_closing():
            self._udp.sendto(answer, peer)

    # -- TCP

    async def converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer what comes over a connection."""
        task = asyncio.current_task()
        if task is not None:
            self._hold(task)
        self._connections += 1
        try:
            if self._connections <= self._most_connections:
                await self._answer_all(reader, writer)
        except (OSError, TimeoutError, EOFError):
            pass  # the client left, or is silent
        finally:
            self._connections -= 1
            writer.close()

    async def _answer_all(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            async with asyncio.timeout(self._idle_s):
                message = await read_message(reader)
            answer = await self._over_tcp(message)
            if answer is None:
                return
            async with asyncio.timeout(self._idle_s):
                await write_message(writer, answer)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """The next message of a connection. Raises EOFError at its end."""
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(size)


async def write_message(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Send a message over a connection."""
    writer.write(_LENGTH.pack(len(message)) + message)
    await writer.drain()
