"""The name server of every workload in node mode: one process, with sockets in each of their
network namespaces.

A name that the mesh has is answered from the table that the host's proxy keeps for the workload, in
any case and for any type; everything else by Docker's own server, as that workload sees it, with
question and answer left as they are.

Invariant: what clients send costs themselves alone, and what is kept of them is bounded.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass
from typing import Any

from dockermesh.model import DNS_NAMES_PORT, DNS_PORT
from dockermesh.model.contract import PROXY_UID
from dockermesh.nodeagent.namespaces import within
from dockermesh.runtime.dns_listener import DnsListener, read_message, write_message
from dockermesh.runtime.dns_message import (
    HEADER,
    NOERROR,
    Question,
    UnreadableError,
    has_records,
    read_question,
    write_answer,
)

_LOOPBACK = "127.0.0.1"
_DOCKERS = ("127.0.0.11", 53)
_A, _IN = 1, 1
_WANTED = 0x0100
_TABLE_S, _DOCKERS_S, _IDLE_S = 1.0, 5.0, 15.0
_MOST_ASKED, _MOST_CONNECTIONS = 512, 64


@dataclass(frozen=True, slots=True)
class NameSockets:
    """What the name server of a namespace listens on, and asks by. Questions wait there."""

    udp: socket.socket
    tcp: socket.socket
    table: socket.socket
    dockers: socket.socket


class NameServer:
    """That of one namespace, whose path this is; answers once it serves."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._listener = DnsListener(
            self._over_udp,
            self._over_tcp,
            connections=_MOST_CONNECTIONS,
            idle_s=_IDLE_S,
        )
        self._tcp: asyncio.Server | None = None
        self._table = _Asker(_TABLE_S)
        self._dockers = _Asker(_DOCKERS_S)

    async def serve(self, sockets: NameSockets) -> None:
        """Answer what comes to these, which `listen` made in the namespace."""
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self._table, sock=sockets.table)
        await loop.create_datagram_endpoint(lambda: self._dockers, sock=sockets.dockers)
        # Last: questions wait already, and those are asked then.
        await loop.create_datagram_endpoint(lambda: self._listener, sock=sockets.udp)
        self._tcp = await asyncio.start_server(
            self._listener.converse, sock=sockets.tcp
        )

    def close(self) -> None:
        """Answer nobody any more."""
        if self._tcp is not None:
            self._tcp.close()
        self._table.close()
        self._dockers.close()
        self._listener.close()

    async def _over_udp(self, message: bytes) -> bytes | None:
        return await self._of_mesh(message) or await self._dockers.ask(message)

    async def _over_tcp(self, message: bytes) -> bytes:
        return await self._of_mesh(message) or await self._by_tcp(message)

    async def _of_mesh(self, message: bytes) -> bytes | None:
        """The answer if the name is the mesh's."""
        try:
            question = read_question(message)
        except UnreadableError:
            return None
        if question.error != NOERROR:
            return None
        found = await self._table.ask(_asked_for(question))
        if found is None or not has_records(found):
            return None
        if question.type != _A:
            return write_answer(question)
        return _as_asked(question, found)

    async def _by_tcp(self, message: bytes) -> bytes:
        made = await asyncio.to_thread(within, self._path, _to_dockers)
        reader, writer = await asyncio.open_connection(sock=made)
        try:
            async with asyncio.timeout(_DOCKERS_S):
                await write_message(writer, message)
                return await read_message(reader)
        finally:
            writer.close()


class _Asker(asyncio.DatagramProtocol):
    """Asks one server, many questions at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[int, asyncio.Future[bytes | None]] = {}
        self._last = 0
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        waiting = self._waiting.get(int.from_bytes(data[:2], "big"))
        if waiting is not None and not waiting.done():
            waiting.set_result(data)

    def error_received(self, exc: Exception) -> None:
        # Nobody listens there, at this moment: whoever waits does so in vain.
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def ask(self, message: bytes) -> bytes | None:
        """The answer, with the id of the question; None if there is none in time."""
        if len(message) < HEADER.size or len(self._waiting) >= _MOST_ASKED:
            return None
        number = self._free()
        waiting = asyncio.get_running_loop().create_future()
        self._waiting[number] = waiting
        try:
            self._transport.sendto(number.to_bytes(2, "big") + message[2:])
            answer = await asyncio.wait_for(waiting, self._seconds)
        except TimeoutError:
            return None
        finally:
            del self._waiting[number]
        return None if answer is None else message[:2] + answer[2:]

    def _free(self) -> int:
        while True:
            self._last = (self._last + 1) & 0xFFFF
            if self._last not in self._waiting:
                return self._last


def listen() -> NameSockets:
    """Listen in the namespace that this thread is in. Raises OSError."""
    made: list[socket.socket] = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            server = socket.socket(socket.AF_INET, kind)
            made.append(server)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind((_LOOPBACK, DNS_PORT))
        made[1].listen(_MOST_CONNECTIONS)
        for server_address in ((_LOOPBACK, DNS_NAMES_PORT), _DOCKERS):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.append(client)
            _pass(client)
            client.connect(server_address)
        for one in made:
            one.setblocking(False)
    except OSError:
        for one in made:
            one.close()
        raise
    return NameSockets(*made)


def _to_dockers() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        _pass(made)
        made.settimeout(_DOCKERS_S)
        made.connect(_DOCKERS)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _pass(made: socket.socket) -> None:
    """Have the capture rules let it pass."""
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, PROXY_UID)


def _asked_for(question: Question) -> bytes:
    """The question for the address of its name, as the table has names."""
    name = question.text[:-4].lower()
    return HEADER.pack(0, _WANTED, 1, 0, 0, 0) + name + struct.pack("!2H", _A, _IN)


def _as_asked(question: Question, found: bytes) -> bytes:
    """The table's answer to the client's own question, whose name is as long."""
    _, flags, _, answers, *_ = HEADER.unpack_from(found)
    flags |= question.flags & _WANTED
    end = HEADER.size + len(question.text)
    head = HEADER.pack(question.id, flags, 1, answers, 0, 0)
    return head + question.text + found[end:]
