"""Ports and addresses for servers that tests start.

Invariant: no port is in the range from which the kernel gives ports to outgoing connections (on Linux
32768 and above), since it could be somebody's own by the time that the server listens.
"""

from __future__ import annotations

import ipaddress
import random
import socket


def free_ports(count: int) -> list[int]:
    """So many ports of the loopback that nobody listens on."""
    found: list[int] = []
    for port in random.sample(range(20_000, 32_768), 2_000):
        if len(found) == count:
            break
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        found.append(port)
    assert len(found) == count, "no free ports"
    return found


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]


def own_address() -> str:
    """One of the loopback that nobody else takes, for a port that is said: of millions, any."""
    return str(ipaddress.IPv4Address("127.64.0.0") + random.randrange(1, 1 << 22))
