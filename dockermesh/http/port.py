"""HTTP servers on one port each, which answer in plaintext and in TLS alike.

kubectl and our own command line send a token over TLS only, while `curl localhost:15014/readyz` and
the old way of pointing kubectl at `http://localhost:8080` speak plaintext. The first byte of a
connection tells which it is: 0x16 begins a TLS handshake.
"""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from collections.abc import Callable
from typing import Literal

from aiohttp import web

from dockermesh.ca import Authority, AuthorityError, Leaf
from dockermesh.errors import DockermeshError, NotReadyError
from dockermesh.http.client_errors import BROKEN, quiet_logger
from dockermesh.http.connections import MOST_IN_ALL, Connections, Tracked
from dockermesh.http.credentials import load_leaf
from dockermesh.runtime.listening import accepted, listen_at
from dockermesh.runtime.repeats import Repeats
from dockermesh.runtime.tls import ask_for_certificates, server_context

_HANDSHAKE = 0x16
_FIRST_BYTE_S = 30.0
_TLS_HANDSHAKE_S = 10.0
_TOO_MANY = "a client has too many connections; its oldest is ended"
_BACKLOG = 128
# kubectl offers HTTP/2 as well, which aiohttp does not speak.
_PROTOCOL = "http/1.1"


class ServerTls:
    """A TLS context with a leaf of the mesh CA, replaced at half of its life. `authority` raises
    NotReadyError while the CA is not open. With `of_members` a client needs a certificate of the
    mesh's.
    """

    def __init__(
        self,
        authority: Callable[[], Authority],
        names: tuple[str, ...],
        *,
        of_members: bool = False,
    ) -> None:
        self._authority = authority
        self._names = names
        self.of_members = of_members
        self._leaf: Leaf | None = None
        self._context = server_context(_PROTOCOL)

    def context(self) -> ssl.SSLContext:
        """The context for a new connection. Raises NotReadyError before the CA is open."""
        authority = self._authority()
        if self._leaf is None or not authority.is_current(
            self._leaf, datetime.datetime.now(datetime.UTC)
        ):
            try:
                self._leaf = authority.issue_server(list(self._names))
            except AuthorityError:
                if self._leaf is None:
                    raise
                return self._context  # its leaf goes on being good until it expires
            if self.of_members:
                # Anew, since a context never forgets a root.
                self._context = server_context(_PROTOCOL)
                ask_for_certificates(self._context, authority.roots_pem)
            # Else into the same context: handshakes from now on show it, connections that are open
            # go on.
            load_leaf(self._context, self._leaf)
        return self._context


class HttpPort:
    """A listening application. With `tls` it takes both TLS and plaintext, or TLS of the mesh's
    members alone.
    """

    def __init__(
        self,
        app: web.Application,
        address: str,
        tls: ServerTls | None = None,
        repeats: Repeats | None = None,
        most_connections: int = MOST_IN_ALL,
    ) -> None:
        """`repeats` counts what clients do wrong."""
        self._repeats = repeats or Repeats()
        self._connections = Connections(
            lambda peer: self._repeats.note(_TOO_MANY, peer, "bound of the port"),
            in_all=most_connections,
        )
        self._runner = web.AppRunner(
            app, access_log=None, logger=quiet_logger(self._repeats)
        )
        self._address = address
        self._tls = tls
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen. Raises DockermeshError when the address is taken."""
        await self._runner.setup()
        try:
            await self._listen()
        except OSError as error:
            await self._runner.cleanup()
            raise DockermeshError(
                f"HTTP cannot listen on {self._address}: the address is taken or not allowed",
                fix="stop what listens there (`ss -ltnp`), or choose another address for HTTP",
            ) from error

    async def stop(self) -> None:
        """Stop listening and end all connections."""
        tasks = [
            *self._opening,
            *([self._accepting] if self._accepting is not None else []),
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._runner.cleanup()

    async def _listen(self) -> None:
        if self._tls is None:
            host, _, port = self._address.rpartition(":")
            site = web.TCPSite(self._runner, host.strip("[]"), int(port))
            await site.start()
            self.port = self._runner.addresses[0][1]
            return

        listener = listen_at(self._address, _BACKLOG)
        self.port = listener.getsockname()[1]
        self._accepting = asyncio.create_task(
            self._accept(listener, self._tls), name=f"accept {self._address}"
        )

    async def _accept(self, listener: socket.socket, tls: ServerTls) -> None:
        async for connection, peer in accepted(listener):
            task = asyncio.create_task(self._open(connection, peer, tls))
            # Held here, as the loop itself holds tasks weakly.
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, peer: str, tls: ServerTls) -> None:
        """Hand a connection over to the HTTP server, after a look at its first byte."""
        opening = asyncio.current_task()
        # Until it has a transport, it ends with this task.
        held = self._connections.add(peer, opening.cancel if opening else list)
        taken = False

        try:
            context = await self._first_look(connection, tls)
            factory = self._runner.server
            if context is None or factory is None:
                return
            taken = True
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Tracked(factory(), held),
                connection,
                ssl=context or None,
                ssl_handshake_timeout=_TLS_HANDSHAKE_S if context else None,
            )
        except ssl.SSLError as error:
            # A client that does not trust our root ends the handshake, too.
            held.forget()
            self._repeats.note(BROKEN, peer, f"TLS: {error.reason}")
        except (OSError, TimeoutError, NotReadyError):
            # The client left, or never spoke; or there is no certificate yet.
            held.forget()
        except asyncio.CancelledError:
            held.forget()
            raise
        finally:
            if not taken:
                held.forget()
                connection.close()

    async def _first_look(
        self, connection: socket.socket, tls: ServerTls
    ) -> ssl.SSLContext | Literal[False] | None:
        """How to go on: with this context, without TLS (False), or not at all (None)."""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(_FIRST_BYTE_S):
            first = await _peek(asyncio.get_running_loop(), connection)
        if first is None:
            return None
        if first == _HANDSHAKE:
            return tls.context()
        return None if tls.of_members else False


async def _peek(
    loop: asyncio.AbstractEventLoop, connection: socket.socket
) -> int | None:
    """The first byte, left in the socket; None if the client closed."""
    readable = asyncio.Event()
    loop.add_reader(connection.fileno(), readable.set)

    try:
        while True:
            await readable.wait()
            readable.clear()
            try:
                # `loop.sock_recv` takes no flags: it would take the byte away from the handshake.
                data = connection.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                continue
            return data[0] if data else None
    finally:
        loop.remove_reader(connection.fileno())
