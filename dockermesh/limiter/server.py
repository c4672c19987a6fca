"""The limiter's port: over mutual TLS with certificates of the mesh, or in plaintext.

Invariant: over TLS nobody gets a word in without a certificate that the mesh's roots signed, of an
identity of a trusted domain. What those without one can hold open is bounded, by peer and in all.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from dockermesh.errors import DockermeshError
from dockermesh.limiter.http2 import Handler, Http2Server
from dockermesh.limiter.service import LimitService
from dockermesh.runtime import tls
from dockermesh.runtime.listening import accepted, listen_at

_HANDSHAKE_S = 5.0
_HANDSHAKES_OF_A_PEER = 64
_HANDSHAKES = 512
_BACKLOG = 512


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """What the port shows, and whom it takes: PEM, and the domains of identities."""

    certificate: bytes
    key: bytes
    roots: bytes
    trust_domains: tuple[str, ...]

    def context(self) -> ssl.SSLContext:
        """For new connections."""
        context = tls.server_context("h2")
        tls.ask_for_certificates(context, self.roots)
        context.sni_callback = _note_name
        tls.show_certificate(context, self.key, self.certificate)
        return context


def _note_name(connection: Any, name: str | None, _context: ssl.SSLContext) -> None:
    # asyncio hands this very object out again, as the transport's.
    connection.asked_name = name or ""


class LimitServer:
    """Listens; without an identity in plaintext."""

    def __init__(self, service: LimitService, address: str) -> None:
        self._service = service
        self._address = address
        self._identity: ServerIdentity | None = None
        self._context: ssl.SSLContext | None = None
        self._pending: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self._accepting: asyncio.Task[None] | None = None

    def show(self, identity: ServerIdentity) -> None:
        """Take connections over TLS from now on, as this one. Those that are open go on."""
        self._context, self._identity = identity.context(), identity

    def listen(self) -> None:
        """Raises DockermeshError when the address is taken."""
        try:
            listener = listen_at(self._address, _BACKLOG)
        except OSError as error:
            raise DockermeshError(
                f"the limiter cannot listen on {self._address}: it is taken or not allowed",
                fix="stop what listens there (`ss -ltnp`), or choose another address for it",
            ) from error
        self.port = listener.getsockname()[1]
        self._accepting = asyncio.ensure_future(self._accept(listener))

    async def run(self) -> None:
        """Until it takes no connections any more: raises why."""
        assert self._accepting is not None
        await self._accepting

    def _hold(self, task: asyncio.Task[None]) -> None:
        # The loop itself holds tasks weakly.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        async for connection, peer in accepted(listener):
            mine = self._pending.get(peer, 0)
            in_all = sum(self._pending.values())
            if mine >= _HANDSHAKES_OF_A_PEER or in_all >= _HANDSHAKES:
                connection.close()
                continue
            self._pending[peer] = mine + 1
            self._hold(asyncio.ensure_future(self._open(connection, peer)))

    async def _open(self, connection: socket.socket, peer: str) -> None:
        """Shake hands, after which the connection is its protocol's."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: Http2Server(self._welcome),
                connection,
                ssl=self._context,
                ssl_handshake_timeout=_HANDSHAKE_S if self._context else None,
            )
        except OSError:
            # Of no use to us, nor are we to it: asyncio has closed it.
            connection.close()
        finally:
            self._pending[peer] -= 1
            if not self._pending[peer]:
                del self._pending[peer]

    def _welcome(self, transport: asyncio.Transport) -> Handler | None:
        if self._identity is None:
            return self._service.handler("")
        secured = transport.get_extra_info("ssl_object")
        if secured is None or not _is_of(secured, self._identity.trust_domains):
            return None
        return self._service.handler(getattr(secured, "asked_name", ""))


def _is_of(secured: Any, domains: tuple[str, ...]) -> bool:
    names = (secured.getpeercert() or {}).get("subjectAltName", ())
    return any(
        kind == "URI" and name.startswith(f"spiffe://{domain}/")
        for kind, name in names
        for domain in domains
    )
