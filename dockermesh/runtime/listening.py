"""A TCP port whose connections a server of asyncio takes itself, since it looks at each first.

Invariant: no connection that cannot be taken keeps the others from being served.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

_PAUSE_S = 0.05


def listen_at(address: str, backlog: int) -> socket.socket:
    """A socket that listens at `host:port`; IPv6 in brackets. Raises OSError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, int(port)), family=family, backlog=backlog)
    listener.setblocking(False)
    return listener


async def accepted(listener: socket.socket) -> AsyncIterator[tuple[socket.socket, str]]:
    """Connections and the addresses of their peers, for ever; closes the listener at the end."""
    loop = asyncio.get_running_loop()
    with listener:
        while True:
            try:
                connection, peer = await loop.sock_accept(listener)
            except OSError:
                # Too many open files, or the client has gone already: others must still be
                # served.
                await asyncio.sleep(_PAUSE_S)
                continue
            yield connection, str(peer[0])
