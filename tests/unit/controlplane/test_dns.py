"""What the control plane answers to DNS queries, and how: names of addresses, Consul's answers, and
REFUSED for everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ports import free_port

from dockermesh.controlplane.dns.answers import Answers
from dockermesh.controlplane.dns.server import DnsServer, ask_over_tcp
from dockermesh.model import Endpoint, Service
from dockermesh.runtime.dns_message import (
    NOERROR,
    NOTIMP,
    PTR,
    REFUSED,
    SERVFAIL,
    UnreadableError,
    fitting,
    read_question,
    write_answer,
)
from dockermesh.translate.mesh.reverse_names import reverse_names, reversed_address
from dockermesh.translate.mesh.state import MeshState

A, SRV = 1, 33
EDNS = struct.pack("!BHHIH", 0, 41, 4096, 0, 0)


def query(name: str, kind: int, *, edns: bool = False, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
    head = struct.pack("!6H", 4711, flags, 1, 0, 0, 1 if edns else 0)
    return head + labels + b"\0" + struct.pack("!2H", kind, 1) + (EDNS if edns else b"")


def told(answer: bytes) -> tuple[int, int]:
    """The code and the number of records."""
    return answer[3] & 0xF, struct.unpack("!6H", answer[:12])[3]


def service(host: str, *addresses: str, **more: object) -> Service:
    endpoints = tuple(Endpoint(address, 80) for address in addresses)
    return Service(host.partition(".")[0], host, endpoints=endpoints, **more)  # type: ignore[arg-type]


MESH = MeshState(
    services={
        item.hostname: item
        for item in (
            service("web.service.consul", "10.0.0.1", "10.0.0.2"),
            service("db.shop.service.consul", "10.0.0.3", project="shop"),
            service("db.service.consul", "10.0.0.3", "fd00::3"),
            service("a.example.com", "10.0.0.1", is_declared=True),
            service("*.example.com", "10.0.0.9", is_declared=True),
        )
    },
    vips={"web.service.consul": "240.240.0.1", "a.example.com": "240.240.0.2"},
)


def test_an_address_has_the_name_that_all_call_its_service() -> None:
    assert reverse_names(MESH) == {
        "240.240.0.1": "web.service.consul",
        "240.240.0.2": "a.example.com",
        "10.0.0.1": "web.service.consul",
        "10.0.0.2": "web.service.consul",
        "10.0.0.3": "db.service.consul",
        "fd00::3": "db.service.consul",
    }


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("4.3.2.1.in-addr.arpa", "1.2.3.4"),
        ("3." + "0." * 27 + "0.d.f.ip6.arpa", ""),
        ("3." + "0." * 27 + "0.0.d.f.ip6.arpa", "fd00::3"),
        ("2.1.in-addr.arpa", ""),
        ("x.3.2.1.in-addr.arpa", ""),
        ("in-addr.arpa", ""),
        ("4.3.2.1.example.org", ""),
    ],
)
def test_reverse_names_are_read_as_resolvers_write_them(
    name: str, address: str
) -> None:
    assert reversed_address(name) == address


async def consul(
    asked: list[bytes], answer: bytes | None, message: bytes
) -> bytes | None:
    asked.append(message)
    return answer


async def answered(name: str, kind: int, answer: bytes | None, **more: bool) -> bytes:
    asked: list[bytes] = []
    message = query(name, kind, **more)
    answers = Answers(lambda: MESH, "consul", partial(consul, asked, answer))
    found = await answers.answer(read_question(message), message)
    assert asked in ([], [message]), "Consul gets the client's own question"
    return found


RECORD = query("x.service.consul", SRV, flags=0x8580)[:6] + b"\0\2\0\0\0\0"


async def test_consuls_names_are_consuls_to_answer() -> None:
    for name in ("_web._tcp.service.consul", "X.Query.CONSUL", "consul"):
        assert await answered(name, SRV, RECORD) == RECORD, name
    assert told(await answered("v1.web.service.consul", A, None)) == (SERVFAIL, 0)


async def test_what_is_nobodys_here_is_refused_and_never_forwarded() -> None:
    for name in ("example.org", "notconsul", "consul.example.org", "service.consul.x"):
        assert told(await answered(name, A, RECORD)) == (REFUSED, 0), name
    question = query("web.service.consul", SRV)
    without = Answers(lambda: MESH, "consul")
    found = await without.answer(read_question(question), question)
    assert told(found) == (REFUSED, 0), "there is no Consul"


async def test_an_address_of_the_mesh_is_named_and_another_is_left_to_consul() -> None:
    found = await answered("1.0.0.10.in-addr.arpa", PTR, None, edns=True)
    assert told(found) == (NOERROR, 1)
    assert b"\3web\7service\6consul\0" in found
    assert found[-11] == 0 and found[-10:-8] == b"\0\x29", "EDNS is answered"
    assert told(await answered("1.0.0.10.in-addr.arpa", A, None)) == (NOERROR, 0)
    assert await answered("9.9.9.9.in-addr.arpa", PTR, RECORD) == RECORD
    empty = write_answer(read_question(query("9.9.9.9.in-addr.arpa", PTR)), 3)
    for nothing in (None, empty):
        found = await answered("9.9.9.9.in-addr.arpa", PTR, nothing)
        assert told(found) == (REFUSED, 0), "Docker may know it"


def test_what_is_no_question_is_told_from_what_cannot_be_answered() -> None:
    for message in (b"", b"x" * 11, query("web", A, flags=0x8000)):
        with pytest.raises(UnreadableError):
            read_question(message)
    assert read_question(query("web", A, flags=0x2800)).error == NOTIMP
    assert read_question(query("web", A)[:-3]).error != NOERROR


@given(st.binary(max_size=600))
def test_no_message_breaks_reading_or_answering(message: bytes) -> None:
    with contextlib.suppress(UnreadableError):
        question = read_question(message)
        assert question.text == b"" or question.text in message
        answer = write_answer(question, REFUSED)
        assert answer[:2] == message[:2] and answer[2] & 0x80
        assert len(fitting(question, answer + b"x" * 2000)) <= 512


def test_an_answer_that_is_too_long_for_the_client_says_so() -> None:
    plain, able = (
        query("web.service.consul", SRV),
        query("web.service.consul", SRV, edns=True),
    )
    long = RECORD + b"x" * 900
    assert fitting(read_question(able), long) == long
    short = fitting(read_question(plain), long)
    assert len(short) <= 512 and short[2] & 0x02 and told(short) == (NOERROR, 0)


Serving = Callable[[bytes], Awaitable[bytes]]


@contextlib.asynccontextmanager
async def serving(answer: bytes) -> AsyncIterator[int]:
    async def give(question: object, message: bytes) -> bytes:
        return message[:2] + answer[2:]

    port = free_port()
    server = DnsServer(f"127.0.0.1:{port}", give)
    await server.start()
    try:
        yield port
    finally:
        await server.stop()


async def over_udp(port: int, *messages: bytes) -> list[bytes]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", port))
        found = []
        for message in messages:
            await loop.sock_sendall(client, message)
            if len(message) >= 12:
                found.append(await asyncio.wait_for(loop.sock_recv(client, 65535), 20))
        return found


async def test_the_server_answers_over_udp_what_fits_and_over_tcp_everything() -> None:
    long = RECORD + b"x" * 3000
    asked = query("web.service.consul", SRV)
    async with serving(long) as port:
        [short] = await over_udp(port, b"", b"garbage", asked)
        assert short[2] & 0x02, "truncated"
        whole = await ask_over_tcp(f"127.0.0.1:{port}", asked)
        assert whole is not None and len(whole) == len(long)


async def test_a_client_that_says_nothing_or_garbage_delays_nobody() -> None:
    asked = query("web.service.consul", SRV)
    async with serving(RECORD) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        for _, writer in silent[:10]:
            writer.write(b"\0\5abcde" * 3)
        assert await ask_over_tcp(f"127.0.0.1:{port}", asked) is not None
        for _, writer in silent:
            writer.close()


async def test_a_server_that_is_away_gives_no_answer() -> None:
    assert await ask_over_tcp(f"127.0.0.1:{free_port()}", query("web", A)) is None
