"""Decisions of the limiter per second of one core, in memory and in Redis, beside one of grpcio.

    python bench/limits/run.py [--decisions 40000] [--open 1,64] [--values 1,5000] [--rounds 3]

One client on one connection keeps `open` questions under way, as a proxy does for its requests.
What the columns are is in bench/README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import shutil
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.service.ratelimit.v3 import rls_pb2

from dockermesh.ca.authority import Authority
from dockermesh.ca.material import new_material
from dockermesh.limiter.orders import Orders
from dockermesh.limiter.server import ServerIdentity
from dockermesh.limiter.service import DECIDE
from dockermesh.model import Identity
from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.model.rate_limits import CountedLimit, LimitNode, Per, Rate

DOMAIN = "cluster.local"
AUTHORITY = Authority(new_material(DOMAIN, datetime.datetime.now(datetime.UTC)))
HEADERS, DATA, SETTINGS, PING, WINDOW = 1, 0, 4, 6, 8
TICKS_S = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A port that nobody has at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """What a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


# servers
# --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(command: list[str], port: int, orders: bytes = b"") -> Iterator[int]:
    """A server, once it listens; its process id."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
    process = subprocess.Popen(command, **pipes)  # type: ignore[call-overload]
    try:
        process.stdin.write(orders)
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port)).close()
                break
            time.sleep(0.05)
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def ours(port: int, *, tls: bool, redis: str = "") -> Iterator[list[int]]:
    """The limiter's own process."""
    limit = CountedLimit("users", Rate(1000, Per.SECOND, 1000))
    domains = {
        (asked, "bench"): LimitNode(any_value={"user": LimitNode(limit)})
        for asked in ("", CONTROL_PLANE_HOST)
    }
    leaf = AUTHORITY.issue_server([CONTROL_PLANE_HOST])
    identity = ServerIdentity(
        leaf.certificate, leaf.key, AUTHORITY.roots_pem, (DOMAIN,)
    )
    command = [sys.executable, "-m", "dockermesh.limiter.process"]
    orders = Orders(domains, identity if tls else None).pack()
    with running([*command, f"127.0.0.1:{port}", redis], port, orders) as pid:
        time.sleep(1.0 if redis else 0.1)
        yield [pid]


@contextlib.contextmanager
def with_redis(port: int) -> Iterator[list[int]]:
    """The limiter, and a Redis of its own; both are counted."""
    own = free_port()
    with tempfile.TemporaryDirectory() as folder:
        options = [
            "--port",
            str(own),
            "--dir",
            folder,
            "--save",
            "",
            "--appendonly",
            "yes",
        ]
        with (
            running(["redis-server", *options], own) as redis,
            ours(port, tls=True, redis=f"redis://127.0.0.1:{own}") as (limiter,),
        ):
            yield [limiter, redis]


@contextlib.contextmanager
def grpcio(port: int) -> Iterator[list[int]]:
    """What grpcio serves with the same counts."""
    script = str(Path(__file__).with_name("grpcio_server.py"))
    with running([sys.executable, script, str(port)], port) as pid:
        yield [pid]


# the client
# --------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload


def _field(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


BLOCK = b"\x83\x86" + b"".join(
    _field(name, value)
    for name, value in (
        (b":path", DECIDE.encode()),
        (b":authority", b"bench"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
    )
)


def question(user: int) -> bytes:
    """One with its prefix."""
    entry = ratelimit_pb2.RateLimitDescriptor.Entry(key="user", value=f"user-{user}")
    descriptor = ratelimit_pb2.RateLimitDescriptor(entries=[entry])
    asked = rls_pb2.RateLimitRequest(domain="bench", descriptors=[descriptor])
    text = asked.SerializeToString()
    return b"\0" + struct.pack(">I", len(text)) + text


class Client:
    """Asks as fast as it is answered."""

    def __init__(self, port: int, *, tls: bool) -> None:
        plain = socket.create_connection(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = _secured(plain) if tls else plain
        self._rest = b""
        self._stream = -1
        self._is_first = True
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
        window = frame(WINDOW, 0, 0, struct.pack(">I", 1 << 30))
        self._socket.sendall(preface + window)
        self._answered()

    def ask(self, questions: list[bytes]) -> None:
        """All of them at once, and wait for the answers."""
        parts = []
        for text in questions:
            self._stream += 2
            # The first block after the settings says that it keeps no table.
            block = (b"\x20" if self._is_first else b"") + BLOCK
            self._is_first = False
            parts += [
                frame(HEADERS, 4, self._stream, block),
                frame(DATA, 1, self._stream, text),
            ]
        self._socket.sendall(b"".join(parts))
        missing = len(questions)
        while missing:
            missing -= self._answered()

    def _answered(self) -> int:
        """How many streams ended in what came."""
        data = self._rest + self._socket.recv(1 << 18)
        at, ended, say = 0, 0, []
        while len(data) - at >= 9:
            head, flags, _ = struct.unpack_from(">IBI", data, at)
            end = at + 9 + (head >> 8)
            if end > len(data):
                break
            kind = head & 255
            ended += kind == HEADERS and flags & 1
            if kind == PING and not flags & 1:
                say.append(frame(PING, 1, 0, data[at + 9 : end]))
            if kind == SETTINGS and not flags & 1:
                say.append(frame(SETTINGS, 1, 0))
            at = end
        self._rest = data[at:]
        if say:
            self._socket.sendall(b"".join(say))
        return ended


def _secured(plain: socket.socket) -> ssl.SSLSocket:
    leaf = AUTHORITY.issue_workload(Identity(DOMAIN, "bench", "bench"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.roots_pem.decode())
    context.set_alpn_protocols(["h2"])
    with tempfile.NamedTemporaryFile() as file:
        file.write(leaf.key + leaf.certificate)
        file.flush()
        context.load_cert_chain(file.name)
    return context.wrap_socket(plain, server_hostname=CONTROL_PLANE_HOST)


# measuring
# --------------------------------------------------------------------------------------------------

SERVERS = {
    "memory": (lambda port: ours(port, tls=True), True),
    "memory, plaintext": (lambda port: ours(port, tls=False), False),
    "Redis": (with_redis, True),
    "grpcio, plaintext": (grpcio, False),
}


def measure(
    name: str, count: int, at_once: int, values: int
) -> tuple[float, list[float]]:
    """Decisions per second, and the microseconds of CPU that each process took for one."""
    make, tls = SERVERS[name]
    port = free_port()
    with make(port) as pids:
        client = Client(port, tls=tls)
        batches = [
            [question((start + n) % values) for n in range(at_once)]
            for start in range(0, count, at_once)
        ]
        client.ask(batches[0])
        before, began = [cpu_s(pid) for pid in pids], time.monotonic()
        for batch in batches:
            client.ask(batch)
        took = time.monotonic() - began
        used = [cpu_s(pid) - b for pid, b in zip(pids, before, strict=True)]
    done = len(batches) * at_once
    return done / took, [u / done * 1e6 for u in used]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--decisions", type=int, default=40_000)
    parser.add_argument("--open", default="1,64")
    parser.add_argument("--values", default="1,5000")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    names = [n for n in SERVERS if n != "Redis" or shutil.which("redis-server")]

    print(
        f"{'':20}{'open':>6}{'values':>8}{'per s':>9}{'us CPU':>9}{'per core':>10}{'of Redis':>10}"
    )
    for at_once in map(int, options.open.split(",")):
        for values in map(int, options.values.split(",")):
            found: dict[str, list[tuple[float, list[float]]]] = {n: [] for n in names}
            # In turn, as machines drift.
            for _ in range(options.rounds):
                for name in names:
                    count = options.decisions // (10 if at_once == 1 else 1)
                    found[name].append(measure(name, count, at_once, values))
            for name, results in found.items():
                rate = statistics.median(r for r, _ in results)
                each = statistics.median(used[0] for _, used in results)
                redis = statistics.median((*used, 0.0)[1] for _, used in results)
                print(
                    f"{name:20}{at_once:6}{values:8}{rate:9.0f}{each:9.1f}"
                    f"{1e6 / max(each, 0.1):10.0f}{redis:10.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
