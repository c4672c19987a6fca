"""A command in a container as a socket: what is written to it is the command's stdin, what is read
its stdout.

It goes over whatever leads to the engine (a unix socket, TCP, TLS, ssh), so a port in a container
is reached where neither its address nor its published port can be. Invariant: closing either end
ends the command, and the end of one direction leaves the other open.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any, Protocol

from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.frames import FRAME

_PART = 1 << 16
_STDOUT = 1
# Unbuffered on both sides: a buffer would hold back what the other side waits for.
_FORWARDER = """
import os, socket, sys, threading
port = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while part := os.read(0, 65536):
        port.sendall(part)
    port.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while part := port.recv(65536):
    while part:
        part = part[os.write(1, part):]
"""


def connect_inside(engine: LocalEngine, container: str, port: int) -> socket.socket:
    """A connection to a TCP port on the loopback of a container that has Python.

    It is closed at once where nothing listens there. Raises EngineError if the engine refuses.
    """
    # -S and -E leave out site-packages and PYTHON*, which it needs none of: it starts sooner.
    return open_exec(engine, container, ["python3", "-SEc", _FORWARDER, str(port)])


def open_exec(engine: LocalEngine, container: str, command: list[str]) -> socket.socket:
    """A socket to a command's stdin and stdout. Raises EngineError if it cannot be started."""
    wire = _wire_of(engine.attach(container, command))
    # A real socket, since callers shake hands for TLS on it and wait with time-outs.
    near, far = socket.socketpair()
    for pump in (_send, _receive):
        # Daemons: a command that ends does not wait for them, and its sockets end the exec.
        threading.Thread(
            target=pump, args=(wire, far), daemon=True, name="exec"
        ).start()
    return near


class _Wire(Protocol):
    """The connection to the engine on which an exec was started."""

    def recv(self, size: int, /) -> bytes: ...
    def sendall(self, data: bytes, /) -> object: ...
    def end(self) -> None: ...
    def close(self) -> None: ...


def _send(wire: _Wire, far: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while part := far.recv(_PART):
            wire.sendall(part)
    with contextlib.suppress(OSError, ValueError):
        wire.end()


def _receive(wire: _Wire, far: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        for part in _stdout(wire):
            far.sendall(part)
    wire.close()
    # Also wakes the other pump, which would read on from a socket that nobody serves any more.
    with contextlib.suppress(OSError):
        far.shutdown(socket.SHUT_RDWR)
    far.close()


def _stdout(wire: _Wire) -> Iterator[bytes]:
    """What the command wrote, out of the frames; stderr is left out."""
    while header := _exactly(wire, FRAME.size):
        stream, left = FRAME.unpack(header)
        while left:
            part = wire.recv(min(left, _PART))
            if not part:
                return
            left -= len(part)
            if stream == _STDOUT:
                yield part


def _exactly(wire: _Wire, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = wire.recv(size - len(found))
        if not part:
            return b""
        found += part
    return found


# transports
# --------------------------------------------------------------------------------------------------


def _wire_of(attached: Any) -> _Wire:
    """What the SDK hands out for its transport, as one thing."""
    # Of a unix socket and of TCP the SDK gives the file object that reads it.
    connection = getattr(attached, "_sock", attached)
    # Its time-out is for answers; this may rest for as long as a client keeps it.
    connection.settimeout(None)
    if isinstance(connection, ssl.SSLSocket):
        return _Tls(connection, attached)
    return _Plain(connection, attached)


class _Plain:
    """A socket. Keeps what the SDK gave, whose end would close it."""

    def __init__(self, connection: Any, owner: Any) -> None:
        self._connection = connection
        self._owner = owner
        self.recv = connection.recv
        self.sendall = connection.sendall

    def end(self) -> None:
        self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # The SDK holds the descriptor, too: closing ours alone would not end the connection.
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        self._owner.close()


class _Tls:
    """TLS. OpenSSL's connections are not for two threads at once: each waits outside of the
    lock.
    """

    def __init__(self, connection: ssl.SSLSocket, owner: Any) -> None:
        self._connection = connection
        self._owner = owner
        self._lock = threading.Lock()
        connection.setblocking(False)

    def recv(self, size: int) -> bytes:
        while True:
            with self._lock, contextlib.suppress(ssl.SSLWantReadError):
                return self._connection.recv(size)
            select.select([self._connection], [], [])

    def sendall(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            with self._lock, contextlib.suppress(ssl.SSLWantWriteError):
                left = left[self._connection.send(left) :]
                continue
            select.select([], [self._connection], [])

    def end(self) -> None:
        # Of TCP alone: SSLSocket's own would forget the keys, and what comes back is wanted still.
        socket.socket.shutdown(self._connection, socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
        self._connection.close()
        self._owner.close()
