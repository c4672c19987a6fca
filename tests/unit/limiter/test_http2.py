"""The limiter's HTTP/2, against a library's other end (hpack's encoder), and against garbage."""

from __future__ import annotations

import asyncio
import struct

import hpack
import pytest

from dockermesh.limiter.http2 import PREFACE, Handler, Http2Server, Reply, Status

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW, MORE = 0, 1, 3, 4, 6, 7, 8, 9
PATH = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def message(text: bytes) -> bytes:
    return b"\0" + struct.pack(">I", len(text)) + text


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""
        self.is_closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Client:
    """The other end of a connection."""

    def __init__(self, handler: Handler | None = None) -> None:
        self.wire = Wire()
        self.asked: list[tuple[str, bytes]] = []
        self.encoder = hpack.Encoder()
        self.server = Http2Server(lambda _: handler or self._echo)
        self.server.connection_made(self.wire)

    def _echo(self, path: str, text: bytes, reply: Reply) -> None:
        self.asked.append((path, text))
        reply(text, Status.OK)

    def send(self, *parts: bytes) -> None:
        self.server.data_received(b"".join(parts))

    def open(self) -> None:
        self.send(PREFACE, frame(SETTINGS, 0, 0))

    def acknowledge(self) -> None:
        """Take the server's settings: from now on without a table."""
        self.send(frame(SETTINGS, 1, 0))
        self.encoder.header_table_size = 0

    def headers(self, *more: tuple[str, str], path: str = PATH) -> bytes:
        pairs = [(":method", "POST"), (":scheme", "http"), (":path", path), *more]
        return bytes(self.encoder.encode(pairs))

    def received(self) -> list[tuple[int, int, int, bytes]]:
        """Kind, flags, stream and payload of what came since the last time."""
        found, at = [], 0
        while at < len(self.wire.data):
            head, flags, stream = struct.unpack_from(">IBI", self.wire.data, at)
            end = at + 9 + (head >> 8)
            found.append((head & 255, flags, stream, self.wire.data[at + 9 : end]))
            at = end
        self.wire.data = b""
        return found


def opened(handler: Handler | None = None) -> Client:
    client = Client(handler)
    client.open()
    client.received()
    return client


def test_a_call_is_answered_with_headers_message_and_trailers() -> None:
    client = opened()
    client.send(
        frame(HEADERS, 4, 1, client.headers()), frame(DATA, 1, 1, message(b"hi"))
    )
    assert client.asked == [(PATH, b"hi")]
    first, data, last = client.received()
    decoder = hpack.Decoder()
    assert decoder.decode(first[3]) == [
        (":status", "200"),
        ("content-type", "application/grpc"),
    ]
    assert data[3] == message(b"hi")
    assert decoder.decode(last[3]) == [("grpc-status", "0")]
    assert last[1] == 5


def test_headers_are_read_before_and_after_the_table_is_gone() -> None:
    client = opened()
    for stream in (1, 3):
        client.send(frame(HEADERS, 4, stream, client.headers(("x", "y"))))
        client.send(frame(DATA, 1, stream, message(b"")))
    client.acknowledge()
    for stream in (5, 7, 9):
        block = client.headers(("traceparent", str(stream)))
        client.send(frame(HEADERS, 4, stream, block))
        client.send(frame(DATA, 1, stream, message(b"")))
    client.send(frame(HEADERS, 4, 11, client.headers(path="/other")))
    client.send(frame(DATA, 1, 11, message(b"")))
    assert [path for path, _ in client.asked] == [PATH] * 5 + ["/other"]


def test_frames_come_in_any_pieces_padded_and_continued() -> None:
    client = opened()
    block = client.headers(("x", "y" * 100))
    data = b"".join(
        (
            frame(HEADERS, 0x28, 1, b"\2" + b"\0" * 5 + block[:20] + b"\0\0"),
            frame(MORE, 0, 1, block[20:40]),
            frame(MORE, 4, 1, block[40:]),
            frame(DATA, 8, 1, b"\3" + message(b"hello")[:4] + b"\0\0\0"),
            frame(DATA, 1, 1, message(b"hello")[4:]),
        )
    )
    for byte in data:
        client.send(bytes([byte]))
    assert client.asked == [(PATH, b"hello")]


def test_pings_and_settings_are_answered_and_the_unknown_is_passed_over() -> None:
    client = opened()
    client.send(
        frame(PING, 0, 0, b"12345678"),
        frame(PING, 1, 0, b"12345678"),
        frame(2, 0, 1, b"\0" * 5),
        frame(0xBB, 0, 0, b"x"),
        frame(RST, 0, 1, b"\0\0\0\0"),
    )
    assert client.received() == [(PING, 1, 0, b"12345678")]


def test_replies_wait_for_the_window_of_the_connection() -> None:
    client = opened()
    text = message(b"x" * 30_000)
    for stream in (1, 3, 5):
        client.send(frame(HEADERS, 4, stream, client.headers()))
        client.send(frame(DATA, 0, stream, text[:16_000]))
        client.send(frame(DATA, 1, stream, text[16_000:]))
    assert [f[2] for f in client.received() if f[0] == DATA] == [1, 3]
    client.send(frame(WINDOW, 0, 0, struct.pack(">I", 30_000)))
    assert [f[2] for f in client.received() if f[0] == DATA] == [5]


def test_replies_may_come_later_or_for_nobody() -> None:
    replies: list[Reply] = []
    client = opened(lambda path, text, reply: replies.append(reply))
    for stream in (1, 3):
        client.send(frame(HEADERS, 4, stream, client.headers()))
        client.send(frame(DATA, 1, stream, message(b"")))
    client.send(frame(RST, 0, 3, b"\0\0\0\0"))
    replies[0](None, Status.UNAVAILABLE)
    replies[1](b"late", Status.OK)
    (only,) = client.received()
    assert only[:3] == (HEADERS, 5, 1)
    assert ("grpc-status", "14") in hpack.Decoder().decode(only[3])
    client.server.connection_lost(None)
    replies[0](b"later", Status.OK)
    assert client.wire.data == b""


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 3), (b"\0\0\0\0\5abc", 3), (b"\1\0\0\0\0", 12)]
)
def test_a_body_that_is_no_message_is_refused(body: bytes, status: int) -> None:
    client = opened()
    client.send(frame(HEADERS, 4, 1, client.headers()), frame(DATA, 1, 1, body))
    (only,) = client.received()
    assert ("grpc-status", str(status)) in hpack.Decoder().decode(only[3])


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        PREFACE + frame(HEADERS, 4, 1, b"\xff\xff\xff\xff\xff\xff"),
        PREFACE + frame(HEADERS, 4, 2, b"\x83"),
        PREFACE + frame(HEADERS, 0, 1, b"\x83") + frame(PING, 0, 0, b"12345678"),
        PREFACE + frame(MORE, 4, 1, b"\x83"),
        PREFACE + frame(HEADERS, 12, 1, b"\xff\x83"),
        PREFACE + frame(DATA, 0, 1, b"x" * 16_385),
        PREFACE + frame(SETTINGS, 0, 0, b"123"),
        PREFACE + frame(WINDOW, 0, 0, b"1"),
        PREFACE + frame(HEADERS, 0, 1) + frame(MORE, 0, 1, b"x" * 16_000) * 5,
    ],
)
def test_who_breaks_the_protocol_is_hung_up_on(data: bytes) -> None:
    client = Client()
    client.received()
    client.send(data)
    assert client.received()[-1][0] == GOAWAY
    assert client.wire.is_closed


def test_what_a_peer_can_make_us_keep_is_bounded() -> None:
    client = opened(lambda path, text, reply: None)
    block = client.headers()
    for stream in range(1, 5_001, 2):
        client.send(
            frame(HEADERS, 4, stream, block if stream == 1 else client.headers())
        )
    refused = [f for f in client.received() if f[0] == RST]
    assert len(refused) == 500
    client = opened()
    client.send(frame(HEADERS, 4, 1, client.headers()))
    client.send(frame(DATA, 0, 1, b"x" * 16_000) * 5)
    assert (RST, 0, 1, struct.pack(">I", 11)) in client.received()


def test_whom_nobody_welcomes_gets_no_word() -> None:
    wire = Wire()
    server = Http2Server(lambda _: None)
    server.connection_made(wire)
    server.data_received(PREFACE)
    assert wire.is_closed
    assert wire.data == b""
