"""Network namespaces of others: something is done in one by a thread that enters it and ends.

Invariant: no other thread of the process ever leaves its own namespace.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_LISTENING = "0A"
_GET_INTERFACES = 0x8912
_NEW_ROUTE, _NEW_RULE = 24, 32
_REQUEST, _ACK, _CREATE, _EXCLUSIVE, _REPLACE = 0x1, 0x4, 0x400, 0x200, 0x100
_TABLE = 1337
"""The routing table that leads what has the mark back into the namespace."""
_NEW_ADDRESSES = 0x10
_libc = ctypes.CDLL(None, use_errno=True)


def enter(path: str) -> None:
    """Move the calling thread into the namespace for good. Raises OSError."""
    with Path(path).open("rb") as file:
        if _libc.setns(file.fileno(), _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)


def within(path: str, action: Callable[[], T]) -> T:
    """What the action returns, in that namespace. Raises OSError where it cannot be entered, and
    whatever the action raises.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            enter(path)
            results.append(action())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=visit, name=f"visit {path}")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def addresses() -> list[str]:
    """The IPv4 addresses of this thread's namespace but loopback's."""
    buffer = ctypes.create_string_buffer(40 * 64)
    asked = struct.pack("iP", len(buffer), ctypes.addressof(buffer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        told = fcntl.ioctl(probe, _GET_INTERFACES, asked)
    (size,) = struct.unpack_from("i", told)
    entries = (buffer.raw[at : at + 40] for at in range(0, size, 40))
    found = [socket.inet_ntoa(entry[20:24]) for entry in entries]
    return [address for address in found if not address.startswith("127.")]


def first_address(seconds: float) -> str:
    """The first IPv4 address of this thread's namespace but loopback's, as soon as it has one;
    empty after that time.
    """
    end = time.monotonic() + seconds
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        # Told of new ones before the first look: none comes unseen in between.
        kernel.bind((0, _NEW_ADDRESSES))
        while not (found := addresses()):
            kernel.settimeout(max(0.001, end - time.monotonic()))
            try:
                kernel.recv(4096)
            except TimeoutError:
                return ""
    return found[0]


def listening() -> set[int]:
    """The TCP ports at which somebody listens over IPv4 in this thread's namespace."""
    lines = Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return {int(f[1].rpartition(":")[2], 16) for f in fields if f[3] == _LISTENING}


def lead_back(mark: int) -> None:
    """Have what has the mark stay in this thread's namespace, whatever its address says. Raises
    OSError.
    """
    table, priority, marked = (
        _attribute(n, v) for n, v in ((15, _TABLE), (6, mark), (10, mark))
    )
    rule = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, 0, 0, 1, 0)
    _ask(_NEW_RULE, _CREATE | _EXCLUSIVE, rule + table + priority + marked)

    loopback = socket.if_nametoindex("lo")
    host, boot, local = 254, 3, 2
    route = struct.pack("=BBBBBBBBI", socket.AF_INET, 0, 0, 0, 0, boot, host, local, 0)
    _ask(_NEW_ROUTE, _CREATE | _REPLACE, route + table + _attribute(4, loopback))


def _attribute(kind: int, value: int) -> bytes:
    return struct.pack("=HHI", 8, kind, value)


def _ask(kind: int, flags: int, body: bytes) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as kernel:
        kernel.settimeout(5)
        kernel.bind((0, 0))
        head = struct.pack(
            "=IHHII", 16 + len(body), kind, _REQUEST | _ACK | flags, 1, 0
        )
        kernel.send(head + body)
        (error,) = struct.unpack_from("=i", kernel.recv(4096), 16)
    # It is there already, from a visit before.
    if error and -error != errno.EEXIST:
        raise OSError(-error, f"routing: {os.strerror(-error)}")
