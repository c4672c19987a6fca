"""What the agent does in a network namespace: names are answered there, workloads on other networks
are reached, and connections outlive the capture that they came by.

Needs root and iproute2; where they are missing the tests say so, and in CI that is a failure.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TypeVar

import pytest
import pytest_asyncio
from node_rig import GREETER, Namespaces, missing
from patience import SLACK, until

from dockermesh.model import DNS_NAMES_PORT, INBOUND_PORT, OUTBOUND_PORT
from dockermesh.model.contract import PROXY_UID
from dockermesh.nodeagent import capture, namespaces
from dockermesh.nodeagent.resolver import NameServer, listen

pytestmark = pytest.mark.binary

T = TypeVar("T")
VIP = "240.240.0.1"
A, AAAA, TXT = 1, 28, 16
NXDOMAIN = 3
PORT = 7000


@pytest.fixture(autouse=True, scope="module")
def machine() -> None:
    if lacks := missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"node mode: {lacks}")


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    with Namespaces("app", "peer", "outsider", "calls") as made:
        yield made


# names
# --------------------------------------------------------------------------------------------------


def question(name: str, kind: int, number: int = 7) -> bytes:
    labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"
    head = struct.pack("!6H", number, 0x0100, 1, 0, 0, 0)
    return head + labels + struct.pack("!2H", kind, 1)


class Stub:
    """A name server that knows one name, over UDP and TCP; it remembers what it was asked."""

    def __init__(self, at: tuple[str, int], name: str, address: str) -> None:
        self.asked: list[bytes] = []
        self._record = (question(name, A)[12:], socket.inet_aton(address))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(at)
        self.tcp = socket.create_server(at)
        threading.Thread(target=self._serve_udp, daemon=True).start()
        threading.Thread(target=self._serve_tcp, daemon=True).start()

    def answer(self, message: bytes) -> bytes:
        self.asked.append(message)
        wanted, address = self._record
        is_known = message[12:] == wanted
        flags = 0x8180 if is_known else 0x8180 | NXDOMAIN
        head = message[:2] + struct.pack("!5H", flags, 1, int(is_known), 0, 0)
        record = struct.pack("!3HIH", 0xC00C, A, 1, 30, 4) + address
        return head + message[12:] + (record if is_known else b"")

    def _serve_udp(self) -> None:
        while True:
            message, peer = self.udp.recvfrom(4096)
            self.udp.sendto(self.answer(message), peer)

    def _serve_tcp(self) -> None:
        while True:
            connection, _ = self.tcp.accept()
            with connection:
                size = int.from_bytes(connection.recv(2), "big")
                answer = self.answer(connection.recv(size))
                connection.sendall(len(answer).to_bytes(2, "big") + answer)


def ask_udp(message: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10 * SLACK)
        client.sendto(message, ("127.0.0.11", 53))
        return client.recv(4096)


def ask_tcp(message: bytes) -> bytes:
    with socket.create_connection(("127.0.0.11", 53), 10 * SLACK) as client:
        client.sendall(len(message).to_bytes(2, "big") + message)
        size = int.from_bytes(client.recv(2), "big")
        return client.recv(size)


class Names:
    """A captured namespace with its name server, between a proxy's table and Docker's server."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.table = self.inside(
            lambda: Stub(("127.0.0.1", DNS_NAMES_PORT), "web.shop", VIP)
        )
        self.dockers = self.inside(lambda: Stub(("127.0.0.11", 53), "db", "10.98.0.77"))

    def inside(self, action: Callable[[], Stub]) -> Stub:
        return namespaces.within(self._path, action)

    async def ask(self, message: bytes, over: Callable[[bytes], bytes]) -> bytes:
        return await asyncio.to_thread(
            namespaces.within, self._path, lambda: over(message)
        )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def names(net: Namespaces) -> AsyncIterator[Names]:
    net.capture("app")
    made = Names(net.path("app"))
    server = NameServer(net.path("app"))
    await server.serve(namespaces.within(net.path("app"), listen))
    yield made
    server.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("over", [ask_udp, ask_tcp])
async def test_a_name_of_the_mesh_is_answered_in_the_letters_that_were_asked(
    names: Names, over: Callable[[bytes], bytes]
) -> None:
    for name in ("web.shop", "WEB.Shop"):
        asked = question(name, A, 4711)
        answer = await names.ask(asked, over)
        assert answer[:2] == asked[:2]
        assert answer[12 : 12 + len(asked) - 12] == asked[12:], "its own question"
        assert answer.endswith(socket.inet_aton(VIP))


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("over", [ask_udp, ask_tcp])
async def test_other_types_of_it_are_no_error_and_no_record(
    names: Names, over: Callable[[bytes], bytes]
) -> None:
    for kind in (AAAA, TXT):
        answer = await names.ask(question("web.shop", kind), over)
        _, flags, _, records, *_ = struct.unpack_from("!6H", answer)
        assert (flags & 0xF, records) == (0, 0)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("over", [ask_udp, ask_tcp])
async def test_everything_else_is_dockers_to_answer(
    names: Names, over: Callable[[bytes], bytes]
) -> None:
    answer = await names.ask(question("db", A, 99), over)
    assert answer[:2] == (99).to_bytes(2, "big")
    assert answer.endswith(socket.inet_aton("10.98.0.77"))
    nobody = await names.ask(question("nobody", A), over)
    assert nobody[3] & 0xF == NXDOMAIN


@pytest.mark.asyncio(loop_scope="module")
async def test_garbage_costs_nobody_an_answer(names: Names) -> None:
    def throw(message: bytes) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for size in range(len(message)):
                client.sendto(message[:size], ("127.0.0.11", 53))
        return b""

    await names.ask(question("web.shop", A), throw)
    answer = await names.ask(question("web.shop", A), ask_udp)
    assert answer.endswith(socket.inet_aton(VIP))


# who is new
# --------------------------------------------------------------------------------------------------


def test_the_address_of_a_new_namespace_is_told_as_soon_as_it_has_one() -> None:
    name = f"newly-{os.getpid()}"
    path = f"/run/netns/{name}"
    ip("netns", "add", name)
    try:
        found: list[str] = []
        waiting = threading.Thread(
            target=lambda: found.append(
                namespaces.within(path, lambda: namespaces.first_address(10 * SLACK))
            )
        )
        waiting.start()
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, *["link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
        ip("-n", name, "addr", "add", "10.98.7.1/24", "dev", "eth0")
        waiting.join()
        assert found == ["10.98.7.1"]
        assert namespaces.within(path, lambda: namespaces.first_address(0)) == found[0]
    finally:
        ip("netns", "del", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


# capture
# --------------------------------------------------------------------------------------------------


def test_who_is_called_on_a_network_that_is_not_shared_is_reached(
    net: Namespaces,
) -> None:
    """As the proxy's user; for the app the address stays what it is."""
    net.serve("peer", GREETER, PORT)
    detours = {"192.0.2.9": net.address("peer")}
    within(net, "app", lambda: capture.capture(is_held=False, detours=detours))
    said = net.run(
        "app", "setpriv", f"--reuid={PROXY_UID}", "--clear-groups", sys.executable,
        "-SEc", "import socket; print(socket.create_connection(('192.0.2.9', 7000), 60).recv(99))",
    )  # fmt: skip
    assert f"hello {net.address('app')}" in said


def test_who_calls_while_the_proxy_is_away_waits_until_it_is_back(
    net: Namespaces,
) -> None:
    """From the app, and to it; a port that nobody captures refuses as ever."""
    within(net, "outsider", lambda: capture.capture(is_patient=True))
    ways = (("outsider", OUTBOUND_PORT, "192.0.2.1"),
            ("calls", INBOUND_PORT, net.address("outsider")))  # fmt: skip
    for caller, port, address in ways:
        answers: list[bytes] = []

        def call(address: str = address, answers: list[bytes] = answers) -> None:
            with socket.create_connection((address, 80), 60 * SLACK) as connection:
                answers.append(connection.recv(5))

        before = refusals(net, "outsider")
        thread = threading.Thread(target=within, args=(net, caller, call))
        thread.start()
        until(
            lambda n=before: refusals(net, "outsider") > n, "its first try is over", 10
        )
        net.serve("outsider", GREETER, port)
        thread.join()
        assert answers == [b"hello"]
    with pytest.raises(ConnectionRefusedError):
        within(net, "outsider", lambda: socket.create_connection(("127.0.0.1", 81)))
    within(net, "outsider", capture.release)


def refusals(net: Namespaces, name: str) -> int:
    """How often the kernel there has refused a connection, whether that left or not."""
    counted = net.run(name, "cat", "/proc/net/snmp").splitlines()
    head, values = (line.split() for line in counted if line.startswith("Tcp:"))
    return int(values[head.index("OutRsts")])


def test_a_connection_outlives_the_capture_that_it_came_by(net: Namespaces) -> None:
    """The app's answers are led back to the proxy, too, until all is taken away."""
    within(net, "peer", lambda: capture.capture(is_held=False))
    net.serve("peer", GREETER, INBOUND_PORT)

    def connect() -> socket.socket:
        return socket.create_connection((net.address("peer"), 7777), 20 * SLACK)

    kept = within(net, "outsider", connect)
    with kept:
        assert kept.recv(99) == f"hello {net.address('outsider')}\n".encode()
        within(net, "peer", capture.let_go)
        kept.sendall(b"still there")
        assert kept.recv(99) == b"STILL THERE"
        with pytest.raises(ConnectionRefusedError):
            within(net, "outsider", connect)


def within(net: Namespaces, name: str, action: Callable[[], T]) -> T:
    return namespaces.within(net.path(name), action)
