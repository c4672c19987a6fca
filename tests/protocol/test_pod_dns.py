"""The pod's name server in a network namespace, between a real proxy's table, a name server that
stands for Docker's, and one that stands for the control plane's.

Needs root and iproute2; where they are missing the tests say so, and in CI that is a failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from envoy_binary import envoy_binary
from google.protobuf import json_format
from patience import SLACK, until

from dockermesh.translate.sidecar.dns import dns_listener, domains

pytestmark = pytest.mark.binary

SCRIPT = Path(__file__).parents[2] / "compose/images/pod/dns"
VIP = "240.240.0.1"
NAMES = (
    "web",
    "web.service.consul",
    "web.default.svc.cluster.local",
    "api.example.com",
)
A, SOA, PTR, MX, TXT, AAAA, SRV, HTTPS = 1, 6, 12, 15, 16, 28, 33, 65
SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
_CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Sockets that are made here belong to the namespace, whoever uses them later."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        Path("/proc/thread-self/ns/net").open() as home,
        Path(f"/run/netns/{namespace}").open() as there,
    ):
        assert libc.setns(there.fileno(), _CLONE_NEWNET) == 0
        try:
            yield
        finally:
            assert libc.setns(home.fileno(), _CLONE_NEWNET) == 0


@dataclass
class Server:
    """A name server that answers with addresses of its own, a code, or nothing; it keeps what it
    was asked, with whether over TCP.
    """

    address: str
    recurses: bool = True
    codes: dict[str, int | None] = field(default_factory=dict)
    asked: list[tuple[str, int, bool]] = field(default_factory=list)
    _sockets: list[socket.socket] = field(default_factory=list)

    def start(self, namespace: str, port: int) -> None:
        with inside(namespace):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            tcp = socket.socket()
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for each in (udp, tcp):
            each.bind((self.address, port))
        tcp.listen()
        self._sockets = [udp, tcp]
        for serve in (self._over_udp, self._over_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def stop(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                # A plain close would leave a thread in its call, and the port taken.
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _over_udp(self) -> None:
        udp = self._sockets[0]
        with contextlib.suppress(OSError):
            while True:
                message, client = udp.recvfrom(65535)
                if answer := self._answer(message, is_tcp=False):
                    udp.sendto(answer, client)

    def _over_tcp(self) -> None:
        tcp = self._sockets[1]
        with contextlib.suppress(OSError):
            while True:
                connection, _ = tcp.accept()
                with connection, contextlib.suppress(OSError):
                    message = connection.recv(65535)[2:]
                    if answer := self._answer(message, is_tcp=True):
                        connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, message: bytes, *, is_tcp: bool) -> bytes:
        try:
            name, kind, end = read_question(message)
        except (IndexError, struct.error):
            return b""
        self.asked.append((name, kind, is_tcp))
        code = self.codes.get(name.lower(), 0)
        if code is None:
            return b""
        has_address = kind == A and not code
        flags = 0x8100 | (0x80 if self.recurses else 0) | code
        head = struct.pack("!5H", flags, 1, has_address, 0, 0)
        given = "127.0.0.13" if name == "control-plane.dockermesh" else self.address
        record = struct.pack("!3HIH", 0xC00C, A, 1, 1, 4) + socket.inet_aton(given)
        return message[:2] + head + message[12:end] + (record if has_address else b"")


def read_question(message: bytes) -> tuple[str, int, int]:
    labels, at = [], 12
    while size := message[at]:
        labels.append(message[at + 1 : at + 1 + size].decode("latin-1"))
        at += 1 + size
    return ".".join(labels), *struct.unpack_from("!H", message, at + 1), at + 5


@dataclass(frozen=True)
class Answer:
    code: int
    records: list[tuple[int, bytes]]
    authorities: int
    has_edns: bool
    name: str

    @property
    def address(self) -> str:
        return ",".join(
            socket.inet_ntoa(data) for kind, data in self.records if kind == A
        )


@dataclass
class Rig:
    namespace: str
    docker: Server
    control_plane: Server
    start_proxy: Callable[[], subprocess.Popen[bytes]]
    proxy: subprocess.Popen[bytes]
    process: subprocess.Popen[bytes]

    def ask(
        self,
        name: str,
        kind: int = A,
        *,
        tcp: bool = False,
        edns: bool = False,
        patience: float = 15 * SLACK,
    ) -> Answer:
        labels = b"".join(bytes([len(p)]) + p.encode() for p in name.split("."))
        extra = struct.pack("!BHHIH", 0, 41, 1232, 0, 0) if edns else b""
        number = secrets.randbelow(65536)
        head = struct.pack("!6H", number, 0x0100, 1, 0, 0, 1 if edns else 0)
        message = head + labels + b"\0" + struct.pack("!2H", kind, 1) + extra
        with self.socket(socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as client:
            client.settimeout(patience)
            client.sendall((struct.pack("!H", len(message)) if tcp else b"") + message)
            found = client.recv(65535)[2 if tcp else 0 :]
        assert found[:2] == message[:2] and found[3] & 0x80, "recursion is offered"
        return _read(found)

    @contextlib.contextmanager
    def socket(self, kind: socket.SocketKind) -> Iterator[socket.socket]:
        with inside(self.namespace):
            client = socket.socket(socket.AF_INET, kind)
        with client:
            client.connect(("127.0.0.1", 15053))
            yield client

    def end_proxy(self) -> None:
        self.proxy.kill()
        self.proxy.wait()

    def is_ready(self) -> bool:
        try:
            return self.ask("web", patience=1).address == VIP
        except OSError:
            return False


def _read(message: bytes) -> Answer:
    _, flags, _, answers, authorities, additional = struct.unpack_from("!6H", message)
    name, _, at = read_question(message)
    records = []
    for _ in range(answers):
        kind, _, _, size = struct.unpack_from("!2HIH", message, at + 2)
        records.append((kind, message[at + 12 : at + 12 + size]))
        at += 12 + size
    return Answer(flags & 0xF, records, authorities, bool(additional), name)


def _missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return ", ".join(
        tool for tool in ("ip", "perl", "setpriv") if not shutil.which(tool)
    )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    if missing := _missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"namespaces: {missing}")
    namespace = f"dns-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    within = ["ip", "netns", "exec", namespace]
    started: list[subprocess.Popen[bytes]] = []
    docker, control_plane = Server("127.0.0.11"), Server("127.0.0.13", recurses=False)

    def start(*command: str) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([*within, *command]))
        return started[-1]

    def start_proxy() -> subprocess.Popen[bytes]:
        options = ("--concurrency", "1", "-l", "error", "--use-dynamic-base-id")
        return start(envoy_binary(), "-c", str(tmp_path / "envoy.json"), *options)

    try:
        subprocess.run([*within, "ip", "link", "set", "lo", "up"], check=True)
        (tmp_path / "envoy.json").write_text(json.dumps(_bootstrap()))
        docker.start(namespace, 53)
        control_plane.start(namespace, 15053)
        user = ("setpriv", "--reuid=1337", "--regid=1337", "--clear-groups")
        told = ("control-plane.dockermesh", "consul", "127.0.0.11")
        # By its text: uid 1337 may not look into pytest's folders.
        process = start(*user, "perl", "-e", SCRIPT.read_text(), *told)
        rig = Rig(namespace, docker, control_plane, start_proxy, start_proxy(), process)
        until(rig.is_ready, "it answers", 20)
        docker.asked.clear()
        yield rig
    finally:
        for process in started:
            process.kill()
            process.wait()
        for server in (docker, control_plane):
            server.stop()
        subprocess.run(["ip", "netns", "del", namespace], check=False)


def _bootstrap() -> dict[str, Any]:
    listener = dns_listener(domains(NAMES, VIP))
    shown = json_format.MessageToDict(listener, preserving_proto_field_name=True)
    return {"static_resources": {"listeners": [shown]}}


def test_names_of_the_mesh_are_answered_here_whatever_is_asked(rig: Rig) -> None:
    for name in NAMES:
        for kind in (AAAA, HTTPS, *(() if name.endswith("consul") else (MX, SRV, TXT))):
            found = rig.ask(name, kind)
            assert (found.code, found.records, found.authorities) == (0, [], 1), name
        assert rig.ask(name).address == VIP
    assert rig.ask("wEb", edns=True) == Answer(
        0, [(A, socket.inet_aton(VIP))], 0, True, "wEb"
    )
    assert rig.ask("web", tcp=True).address == VIP
    assert rig.docker.asked == [] == rig.control_plane.asked


def test_other_names_are_dockers_in_the_clients_protocol(rig: Rig) -> None:
    rig.docker.codes = {"nosuch": NXDOMAIN}
    assert rig.ask("example.org").address == rig.docker.address
    assert rig.ask("eXample.org", AAAA, tcp=True).name == "eXample.org"
    assert rig.ask("nosuch").code == NXDOMAIN
    assert rig.docker.asked == [
        ("example.org", A, False),
        ("eXample.org", AAAA, True),
        ("nosuch", A, False),
    ]


def test_what_only_consul_knows_is_asked_of_the_control_plane(rig: Rig) -> None:
    theirs = [
        ("web.service.consul", SRV, False),
        ("v1.web.service.consul", A, True),
        ("best.query.consul", AAAA, False),
        ("5.0.28.172.in-addr.arpa", PTR, False),
    ]
    for name, kind, tcp in theirs:
        assert rig.ask(name, kind, tcp=tcp).code == 0
    assert rig.control_plane.asked == theirs
    # Nobody there knows it: without Consul, such names are as any others.
    rig.control_plane.codes = {name: REFUSED for name, _, _ in theirs}
    rig.control_plane.codes["9.0.240.240.in-addr.arpa"] = REFUSED
    assert rig.ask("v1.web.service.consul").address == rig.docker.address
    assert rig.ask("web.service.consul", SRV).code == 0
    assert rig.ask("9.0.240.240.in-addr.arpa", PTR).code == NXDOMAIN
    rig.ask("5.0.28.172.in-addr.arpa", PTR)
    asked = [name for name, _, _ in rig.docker.asked if not name.startswith("control-")]
    assert asked == ["v1.web.service.consul", "5.0.28.172.in-addr.arpa"]


def test_without_the_control_plane_the_mesh_and_docker_answer_as_ever(rig: Rig) -> None:
    rig.control_plane.stop()
    assert rig.ask("web.service.consul").address == VIP
    assert rig.ask("web.service.consul", AAAA).code == 0
    assert rig.ask("example.org").address == rig.docker.address
    # No answer is not "there are none": who balances by SRV keeps what it has.
    assert rig.ask("web.service.consul", SRV).code == SERVFAIL
    assert rig.ask("9.0.240.240.in-addr.arpa", PTR).code == SERVFAIL
    assert rig.ask("5.0.28.172.in-addr.arpa", PTR).code == 0
    assert "5.0.28.172.in-addr.arpa" in {name for name, _, _ in rig.docker.asked}


def test_without_the_proxy_what_it_knew_is_answered_and_dockers_names_too(
    rig: Rig,
) -> None:
    rig.end_proxy()
    assert rig.ask("web").address == VIP
    assert rig.ask("web", AAAA).records == []
    assert rig.ask("example.org").address == rig.docker.address
    rig.start_proxy()
    until(lambda: rig.ask("api.example.com").address == VIP, "the proxy is back", 20)


def test_an_upstream_that_is_dead_holds_nobody_else_up(rig: Rig) -> None:
    rig.docker.codes = {"dead.example": None}
    message = struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + b"\4dead\7example\0\0\1\0\1"
    with rig.socket(socket.SOCK_DGRAM) as client:
        for _ in range(600):
            client.send(message)
        # Of a flood the kernel drops what nobody has read yet, and clients repeat.
        until(rig.is_ready, "it answers", 20)
        assert rig.ask("example.org").address == rig.docker.address
    assert _open_files(rig) < 400, "what is under way is bounded"


def test_nothing_on_the_wire_ends_it_or_stays_in_it(rig: Rig) -> None:
    before = _open_files(rig)
    good = (
        struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0)
        + b"\3web\7service\6consul\0\0\x21\0\1"
    )
    noise = [os.urandom(size) for size in range(120)]
    cut = [good[:size] for size in range(len(good))]
    bent = [
        good[:at] + bytes([value]) + good[at + 1 :]
        for at in range(len(good))
        for value in (0, 63, 192, 255)
    ]
    with rig.socket(socket.SOCK_DGRAM) as client:
        for message in (*noise, *cut, *bent):
            client.send(message)
    for message in (*noise[::4], b"\0\0", b"\xff\xff" + b"x" * 9000):
        with rig.socket(socket.SOCK_STREAM) as client:
            client.sendall(message)
    until(rig.is_ready, "it still answers", 20)
    assert rig.process.poll() is None
    until(lambda: _open_files(rig) <= before + 2, "no socket is left", 30)


def _open_files(rig: Rig) -> int:
    return len(list(Path(f"/proc/{rig.process.pid}/fd").iterdir()))
