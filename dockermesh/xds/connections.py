"""How many connections without a stream one peer may hold on an xDS port.

gRPC has no such bound, and tells nobody of its connections. But their sockets are this process's,
and a socket that is shut down ends its connection as if the peer had hung up. So the sockets are
looked at, and where a peer has too many the oldest go: behind a port that Docker publishes all
clients have one address, and who holds connections must not lock the others out.

Invariant: the connection of a stream that was let in is never ended, and nobody else's socket is.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

MOST_OF_A_PEER = 64
"""Of those that had time enough to open a stream."""
MOST_YOUNG_OF_A_PEER = 1024
"""Of all: hundreds of proxies of another host may come at once from one address."""
MOST_IN_ALL = 4096
TIME_ENOUGH_S = 30.0
_LOOK_S = 0.5
_THOROUGHLY_S = 10.0
_SOCKETS = "/proc/self/fd"

Peer = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most connections without a stream, and the time in which one is to be opened."""

    of_a_peer: int = MOST_OF_A_PEER
    young_of_a_peer: int = MOST_YOUNG_OF_A_PEER
    in_all: int = MOST_IN_ALL
    time_enough_s: float = TIME_ENOUGH_S

    def superfluous(self, seen: Iterable[tuple[float, Peer]], now: float) -> set[Peer]:
        """Which of these, with the time of their first sight, have to go."""
        by_address: dict[str, list[tuple[float, Peer]]] = defaultdict(list)
        for since, peer in sorted(seen):
            by_address[peer[0]].append((since, peer))

        over: set[Peer] = set()
        left: list[tuple[float, Peer]] = []
        for held in by_address.values():
            old = [one for one in held if now - one[0] >= self.time_enough_s]
            most = max(len(held) - self.young_of_a_peer, len(old) - self.of_a_peer, 0)
            over.update(peer for _, peer in held[:most])
            left += held[most:]
        over.update(peer for _, peer in sorted(left)[: max(len(left) - self.in_all, 0)])
        return over


class Connections:
    """Those of the ports of one server."""

    def __init__(
        self,
        streams: Callable[[], Iterable[str]],
        on_ended: Callable[[str], object],
        bounds: Bounds | None = None,
    ) -> None:
        """`streams` are the peers, as gRPC writes them, of all streams that were let in; `on_ended`
        is told the address whose connection is ended.
        """
        self.ports: set[int] = set()
        self._streams = streams
        self._on_ended = on_ended
        self._bounds = bounds or Bounds()
        self._since: dict[Peer, float] = {}
        # Files that are no connections of ours, when it was looked last, and when that was.
        self._others = 0
        self._looked = float("-inf")

    async def run(self) -> None:
        """Look after them until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(_LOOK_S)
            self.look(clock())

    def look(self, now: float) -> None:
        """End what is too much."""
        proven = {parse_peer(peer) for peer in self._streams()}
        files = _open_files()
        # Nearly always each connection is that of a stream, and a glance tells; but those to Consul
        # come and go, too.
        unknown = len(files) - self._others - len(proven)
        is_recent = now - self._looked < _THOROUGHLY_S
        if not self._since and is_recent and unknown <= self._bounds.of_a_peer:
            return

        ours = {peer: fd for fd, peer in _peers(files, self.ports)}
        self._others, self._looked = len(files) - len(ours), now
        found = {peer: fd for peer, fd in ours.items() if peer not in proven}
        self._since = {peer: self._since.get(peer, now) for peer in found}
        seen = [(since, peer) for peer, since in self._since.items()]
        for peer in self._bounds.superfluous(seen, now):
            _hang_up(found[peer], peer)
            self._on_ended(peer[0])


def parse_peer(text: str) -> Peer:
    """Address and port of gRPC's `ipv4:10.0.0.1:1234` or `ipv6:%5B::1%5D:1234`."""
    address, _, port = text.partition(":")[2].rpartition(":")
    bare = address.replace("%5B", "").replace("%5D", "").strip("[]")
    return bare.removeprefix("::ffff:"), int(port) if port.isdigit() else 0


def _open_files() -> list[int]:
    try:
        return [int(name) for name in os.listdir(_SOCKETS)]  # noqa: PTH208  # it is cheap
    except OSError:
        return []  # not Linux: nothing is bounded there


def _peers(files: Iterable[int], ports: set[int]) -> Iterator[tuple[int, Peer]]:
    """The sockets among these files that are connections to one of our ports."""
    for fd in files:
        with suppress(OSError):
            # Lent, not taken: it is gRPC's.
            lent = socket.socket(fileno=fd)
            try:
                if _port_of(lent.getsockname()) in ports:
                    yield fd, _peer_of(lent)
            finally:
                lent.detach()


def _hang_up(fd: int, peer: Peer) -> None:
    with suppress(OSError):
        # A copy stays the same connection when gRPC closes its own meanwhile, and the number is
        # given to another one.
        copied = os.dup(fd)
        try:
            copy = socket.socket(fileno=copied)
        except OSError:
            os.close(copied)
            raise
        with copy:
            if _peer_of(copy) == peer:
                copy.shutdown(socket.SHUT_RDWR)


def _port_of(name: object) -> int:
    return name[1] if isinstance(name, tuple) else 0


def _peer_of(connection: socket.socket) -> Peer:
    address, port, *_ = connection.getpeername()
    return str(address).removeprefix("::ffff:"), int(port)
