"""A DNS server on one address, over UDP and TCP."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from dockermesh.errors import DockermeshError
from dockermesh.runtime.dns_listener import DnsListener, read_message, write_message
from dockermesh.runtime.dns_message import (
    Question,
    UnreadableError,
    fitting,
    read_question,
)

Answer = Callable[[Question, bytes], Awaitable[bytes]]
_MOST_CONNECTIONS = 256
_IDLE_S = 10.0
_CONSUL_S = 1.5


class DnsServer:
    """Answers on `address` (`host:port`) with what `answer` gives."""

    def __init__(self, address: str, answer: Answer) -> None:
        self._address = address
        self._answer = answer
        self._listener = DnsListener(
            self._over_udp,
            self._over_tcp,
            connections=_MOST_CONNECTIONS,
            idle_s=_IDLE_S,
        )
        self._tcp: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises DockermeshError when the address is taken."""
        host, _, port = self._address.rpartition(":")
        where = (host.strip("[]"), int(port))
        loop = asyncio.get_running_loop()
        try:
            self._tcp = await asyncio.start_server(self._listener.converse, *where)
            await loop.create_datagram_endpoint(
                lambda: self._listener, local_addr=where
            )
        except OSError as error:
            await self.stop()
            raise DockermeshError(
                f"DNS cannot listen on {self._address}: the address is taken or not allowed",
                fix="stop what listens there (`ss -lnp`), or choose another address for DNS",
            ) from error

    async def stop(self) -> None:
        """Stop listening, and answer nobody any more."""
        if self._tcp is not None:
            self._tcp.close()
        await asyncio.gather(*self._listener.close(), return_exceptions=True)

    async def _over_udp(self, message: bytes) -> bytes | None:
        with contextlib.suppress(UnreadableError):
            question = read_question(message)
            return fitting(question, await self._answer(question, message))
        return None

    async def _over_tcp(self, message: bytes) -> bytes | None:
        with contextlib.suppress(UnreadableError):
            return await self._answer(read_question(message), message)
        return None


async def ask_over_tcp(address: str, message: bytes) -> bytes | None:
    """The answer of the server at `address`; None without one.

    Over TCP, whatever the client uses: Consul leaves records out of answers over UDP, and does not
    say so.
    """
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_CONSUL_S):
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
            try:
                await write_message(writer, message)
                return await read_message(reader)
            finally:
                writer.close()
    except (OSError, TimeoutError, EOFError):
        return None
