"""The open connections of a port, and how many of them one peer may hold.

Who is over the bound loses its oldest connection, and the new one is taken: behind a port that
Docker publishes all clients have one address, and who holds connections open must not lock the
others out. Who has shown a token is not counted, so a watch is not ended by somebody else's flood.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

MOST_OF_A_PEER = 64
MOST_IN_ALL = 512


class Connection:
    """One connection of a peer, from its acceptance to its end."""

    __slots__ = ("_book", "end", "peer")

    def __init__(self, book: Connections, peer: str, end: Callable[[], object]) -> None:
        self._book = book
        self.peer = peer
        self.end = end

    def forget(self) -> None:
        """It has ended, or has proven itself and may stay."""
        self._book.forget(self)


class Connections:
    """Those that have not proven themselves, oldest first."""

    def __init__(
        self,
        on_full: Callable[[str], object],
        of_a_peer: int = MOST_OF_A_PEER,
        in_all: int = MOST_IN_ALL,
    ) -> None:
        """`on_full` is told the peer whose oldest connection was ended."""
        self._on_full = on_full
        self._of_a_peer = of_a_peer
        self._in_all = in_all
        # Both ordered, so that the oldest is found without a search.
        self._all: dict[Connection, None] = {}
        self._by_peer: dict[str, dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, peer: str, end: Callable[[], object]) -> Connection:
        """A new connection, which `end` would end; makes room for it."""
        connection = Connection(self, peer, end)
        of_peer = self._by_peer.setdefault(peer, {})
        of_peer[connection] = self._all[connection] = None
        if len(of_peer) > self._of_a_peer:
            self._drop(next(iter(of_peer)))
        elif len(self._all) > self._in_all:
            self._drop(next(iter(self._all)))
        return connection

    def _drop(self, connection: Connection) -> None:
        self.forget(connection)
        self._on_full(connection.peer)
        connection.end()

    def forget(self, connection: Connection) -> None:
        """Count the connection no longer; may be said twice."""
        self._all.pop(connection, None)
        of_peer = self._by_peer.get(connection.peer, {})
        of_peer.pop(connection, None)
        if not of_peer:
            self._by_peer.pop(connection.peer, None)


class Tracked(asyncio.Protocol):
    """A protocol whose connection is in the book, until it ends or proves itself."""

    def __init__(self, inner: asyncio.Protocol, connection: Connection) -> None:
        self._inner = inner
        self._connection = connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open: from now on it ends by its transport."""
        # Every transport that carries a Protocol has it.
        self._connection.end = getattr(transport, "abort", transport.close)
        self._inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ended, by whomever."""
        self._connection.forget()
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Handed on."""
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Handed on."""
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        """Handed on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Handed on."""
        self._inner.resume_writing()

    def prove(self) -> None:
        """Its client has shown a token."""
        self._connection.forget()


def prove(transport: Any) -> None:
    """The client of this transport has shown a token: its connection is not ended for others."""
    protocol = transport.get_protocol() if transport is not None else None
    if isinstance(protocol, Tracked):
        protocol.prove()
