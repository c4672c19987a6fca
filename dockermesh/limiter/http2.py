"""As much of HTTP/2 as unary gRPC needs on the server's side, fast.

A library reads each header of each request; here the path of a block of headers that begins as one
before is known. For that the connection has no dynamic table of headers (its size is set to 0,
which peers must follow once they have taken our settings), so equal bytes say the same; up to then,
and for blocks that are new, the library `hpack` reads them. Source: RFC 9113, and gRPC's *gRPC over
HTTP2*.

Invariants: what a peer can make us keep is bounded: streams, their messages, what waits for its
window. Who breaks the protocol is told so and hung up on.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEAD = struct.Struct(">IBI")
_SETTING = struct.Struct(">HI")
_U32 = struct.Struct(">I")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = (
    0,
    1,
    3,
    4,
    6,
    7,
    8,
    9,
)
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
_TABLE_SIZE, _MAX_STREAMS, _INITIAL_WINDOW, _MAX_FRAME = 1, 3, 4, 5
_LONGEST_FRAME = 16_384
_LONGEST_BLOCK = 65_536
_LONGEST_MESSAGE = 65_536
_MOST_STREAMS = 2_000
_MOST_KNOWN_BLOCKS = 256
_BEGINNING = 112
"""Of a block, in which its path is if that is not too long: what differs from call to call, such as
ids of traces, comes behind it.
"""
_OVERHEAD = 7
"""What a header's lengths take at most."""
_OUR_WINDOW = 1 << 24
_DEFAULT_WINDOW = 65_535
_NO_ERROR, _PROTOCOL, _FRAME_SIZE, _REFUSED, _COMPRESSION, _CALM = 0, 1, 6, 7, 9, 11


class Status(IntEnum):
    """gRPC's, as far as they are said here."""

    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    UNAVAILABLE = 14


Reply = Callable[[bytes | None, Status], None]
"""Ends a call: with a message, or with a status alone."""
Handler = Callable[[str, bytes, Reply], None]
"""Takes a call: the method's path and the message. It may reply later."""
Welcome = Callable[[asyncio.Transport], Handler | None]
"""Looks at a new connection: who takes its calls; None: nobody does, and it is ended."""


class _PeerError(Exception):
    """The peer broke the protocol."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


def _literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload) << 8 | kind, flags, stream) + payload


_HEADERS_OF_REPLY = b"\x88" + _literal(b"content-type", b"application/grpc")
_TRAILERS = {s: _literal(b"grpc-status", str(int(s)).encode()) for s in Status}
_BEGIN = _HEAD.pack(len(_HEADERS_OF_REPLY) << 8 | _HEADERS, _END_HEADERS, 0)[:5]
_OK_TRAILERS = _TRAILERS[Status.OK]
_FINISH = _HEAD.pack(len(_OK_TRAILERS) << 8 | _HEADERS, _END_HEADERS | _END_STREAM, 0)[
    :5
]


class _Blocks:
    """Reads the blocks of headers of a connection, in their order."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=_LONGEST_BLOCK)
        self._known: dict[bytes, str] = {}
        self._has_table = True

    def forget_table(self) -> None:
        """The peer has taken that there is no table: blocks say the same whenever they come."""
        self._decoder.max_allowed_table_size = 0
        self._has_table = False

    def path(self, block: bytes) -> str:
        """The path that a block says; empty without one. Raises _PeerError."""
        known = self._known
        path = known.get(block[:_BEGINNING])
        if path is not None:
            return path
        try:
            headers = self._decoder.decode(block, raw=True)
        except hpack.HPACKError as error:
            raise _PeerError(_COMPRESSION, str(error)) from error

        path, length = _path(headers)
        # The first block after the change says that it takes it: it is no other one's twin.
        may_be_known = not self._has_table and len(known) < _MOST_KNOWN_BLOCKS
        if may_be_known and path and length <= _BEGINNING and block[:1] != b"\x20":
            known[block[:_BEGINNING]] = path
        return path


def _path(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, int]:
    """The path among headers, and how many bytes it and those before it take at most."""
    length = 0
    for name, value in headers:
        length += len(name) + len(value) + _OVERHEAD
        if name == b":path":
            return value.decode(errors="replace"), length
    return "", length


class Http2Server(asyncio.Protocol):
    """One connection of a client."""

    def __init__(self, welcome: Welcome) -> None:
        self._welcome = welcome
        self._handler: Handler | None = None
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._is_open = False
        self._blocks = _Blocks()
        self._block: tuple[int, int, bytearray] | None = None
        self._calls: dict[int, tuple[str, bytearray]] = {}
        self._last = 0
        self._out: list[bytes] = []
        self._is_reading = False
        # What the peer still takes, on the connection and of each reply.
        self._window = _DEFAULT_WINDOW
        self._window_of_stream = _DEFAULT_WINDOW
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._unacknowledged = 0

    # asyncio's side
    # ----------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings at once."""
        assert isinstance(transport, asyncio.Transport)
        self._handler = self._welcome(transport)
        if self._handler is None:
            transport.abort()
            return
        self._transport = transport
        settings = _SETTING.pack(_TABLE_SIZE, 0) + _SETTING.pack(
            _MAX_STREAMS, _MOST_STREAMS
        )
        transport.write(
            _frame(_SETTINGS, 0, 0, settings)
            + _frame(_WINDOW, 0, 0, _U32.pack(_OUR_WINDOW))
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Replies that come now go nowhere."""
        self._transport = None
        self._calls.clear()
        self._waiting.clear()

    def pause_writing(self) -> None:
        """Who does not read its answers asks nothing more."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        if self._transport is not None:
            self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Frames, or parts of them. What they are answered with is written at once."""
        if self._transport is None:
            return
        data = self._rest + data if self._rest else data
        self._is_reading = True
        try:
            self._rest = data[self._take_all(data) :]
        except _PeerError as error:
            self._hang_up(error)
        self._is_reading = False
        self._write()

    def _write(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
        self._out.clear()

    def _hang_up(self, error: _PeerError) -> None:
        said = struct.pack(">II", self._last, error.code) + str(error).encode()[:200]
        self._out.append(_frame(_GOAWAY, 0, 0, said))
        self._write()
        if self._transport is not None:
            self._transport.close()

    # frames
    # ----------------------------------------------------------------------------------------------

    def _take_all(self, data: bytes) -> int:
        """Take the whole frames; how much of the data they were."""
        at, end = 0, len(data)
        if not self._is_open:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise _PeerError(_PROTOCOL, "this is not HTTP/2")
            if end < len(PREFACE):
                return 0
            at, self._is_open = len(PREFACE), True

        unpack = _HEAD.unpack_from
        while end - at >= 9:
            head, flags, stream = unpack(data, at)
            size, kind = head >> 8, head & 0xFF
            if size > _LONGEST_FRAME:
                raise _PeerError(_FRAME_SIZE, "a frame is too long")
            if end - at < 9 + size:
                break
            payload = data[at + 9 : at + 9 + size]
            at += 9 + size
            self._take(kind, flags, stream & 0x7FFFFFFF, payload)
        return at

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != _CONTINUATION:
            raise _PeerError(_PROTOCOL, "a block of headers has no end")
        if kind == _DATA:
            self._take_data(flags, stream, payload)
        elif kind == _HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == _CONTINUATION:
            self._continue(flags, stream, payload)
        elif kind == _SETTINGS:
            self._take_settings(flags, payload)
        elif kind == _WINDOW:
            self._take_window(stream, payload)
        elif kind == _PING:
            if not flags & _ACK:
                self._out.append(_frame(_PING, _ACK, 0, payload))
        elif kind == _RST_STREAM:
            self._calls.pop(stream, None)

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & (_PADDED | _PRIORITY):
            payload = _unpadded(flags, payload)
            payload = payload[5:] if flags & _PRIORITY else payload
        if flags & _END_HEADERS:
            self._take_block(flags, stream, payload)
        else:
            self._block = (flags, stream, bytearray(payload))

    def _continue(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[1] != stream:
            raise _PeerError(_PROTOCOL, "nothing is to be continued")
        first, _, block = self._block
        block += payload
        if len(block) > _LONGEST_BLOCK:
            raise _PeerError(_CALM, "the headers are too long")
        if flags & _END_HEADERS:
            self._block = None
            self._take_block(first, stream, bytes(block))

    def _take_block(self, flags: int, stream: int, block: bytes) -> None:
        # Also where nobody wants to know: the table of the peer follows each block.
        path = self._blocks.path(block)
        if stream in self._calls:
            # Trailers.
            if flags & _END_STREAM:
                self._call(stream)
            return
        if not stream & 1 or stream <= self._last:
            raise _PeerError(_PROTOCOL, "a stream begins under a wrong number")
        self._last = stream
        if len(self._calls) >= _MOST_STREAMS:
            self._reset(stream, _REFUSED)
            return
        self._calls[stream] = (path, bytearray())
        if flags & _END_STREAM:
            self._call(stream)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        self._unacknowledged += len(payload)
        if self._unacknowledged > _OUR_WINDOW // 4:
            self._out.append(_frame(_WINDOW, 0, 0, _U32.pack(self._unacknowledged)))
            self._unacknowledged = 0
        call = self._calls.get(stream)
        # Of one that was reset, there may be more on its way.
        if call is None:
            return
        call[1].extend(_unpadded(flags, payload) if flags & _PADDED else payload)
        if len(call[1]) > _LONGEST_MESSAGE:
            self._calls.pop(stream)
            self._reset(stream, _CALM)
        elif flags & _END_STREAM:
            self._call(stream)

    def _take_settings(self, flags: int, payload: bytes) -> None:
        if flags & _ACK:
            self._blocks.forget_table()
            return
        if len(payload) % _SETTING.size:
            raise _PeerError(_FRAME_SIZE, "the settings are cut off")
        for name, value in _SETTING.iter_unpack(payload):
            if name == _INITIAL_WINDOW:
                self._window_of_stream = value
        self._out.append(_frame(_SETTINGS, _ACK, 0, b""))

    def _take_window(self, stream: int, payload: bytes) -> None:
        if len(payload) != _U32.size:
            raise _PeerError(_FRAME_SIZE, "a window has no size")
        # Replies fit into the window that a stream begins with, or are not sent.
        if stream:
            return
        self._window += _U32.unpack(payload)[0] & 0x7FFFFFFF
        while self._waiting and len(self._waiting[0][1]) <= self._window:
            self._send(*self._waiting.popleft())

    def _reset(self, stream: int, code: int) -> None:
        self._out.append(_frame(_RST_STREAM, 0, stream, _U32.pack(code)))

    # calls
    # ----------------------------------------------------------------------------------------------

    def _call(self, stream: int) -> None:
        path, data = self._calls[stream]

        def reply(message: bytes | None, status: Status) -> None:
            if self._calls.pop(stream, None) is None:
                return
            if message is None:
                self._fail(stream, status)
            else:
                self._answer(stream, message)
            # Replies of one read are written together.
            if not self._is_reading:
                self._write()

        if len(data) < 5 or data[0] or len(data) != 5 + _U32.unpack_from(data, 1)[0]:
            reply(
                None,
                Status.UNIMPLEMENTED if data[:1] == b"\1" else Status.INVALID_ARGUMENT,
            )
            return
        assert self._handler is not None
        self._handler(path, bytes(memoryview(data)[5:]), reply)

    def _fail(self, stream: int, status: Status) -> None:
        block = _HEADERS_OF_REPLY + _TRAILERS[status]
        self._out.append(_frame(_HEADERS, _END_HEADERS | _END_STREAM, stream, block))

    def _answer(self, stream: int, message: bytes) -> None:
        body = b"\0" + _U32.pack(len(message)) + message
        if len(body) > self._window_of_stream:
            self._fail(stream, Status.RESOURCE_EXHAUSTED)
        elif self._waiting or len(body) > self._window:
            if len(self._waiting) < _MOST_STREAMS:
                self._waiting.append((stream, body))
            else:
                self._reset(stream, _CALM)
        else:
            self._send(stream, body)

    def _send(self, stream: int, body: bytes) -> None:
        self._window -= len(body)
        number = _U32.pack(stream)
        self._out += (
            _BEGIN, number, _HEADERS_OF_REPLY,
            _HEAD.pack(len(body) << 8 | _DATA, 0, stream), body,
            _FINISH, number, _OK_TRAILERS,
        )  # fmt: skip


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & _PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise _PeerError(_PROTOCOL, "there is more padding than frame")
    return payload[1 : len(payload) - payload[0]]
