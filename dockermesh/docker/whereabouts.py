"""Where the engine is, as seen from here: whether the ports that it publishes are this machine's,
and under which name they are reached if not.

Ports appear in the network namespace of the engine. A socket says little about that: it may be
mounted into a container, or belong to an engine in a namespace of its own.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

from dockermesh.docker.engine import LocalEngine
from dockermesh.model.hosts import bracketed

_PEER = struct.Struct("3i")
_ROUTES = Path("/proc/net/route")
_GATEWAY = 0x2
"""RTF_GATEWAY of linux/route.h."""


def publishes_here(engine: LocalEngine) -> bool:
    """Whether the engine publishes ports on this machine, as far as that is known without asking a
    port; False in doubt.
    """
    kind, _, path = engine.url.partition("://")
    # tcp://localhost, too, may be the end of a tunnel.
    if kind not in {"unix", "npipe"}:
        return False

    info = engine.info()
    # Both forward ports from a namespace or machine of their own to this one.
    forwards = "name=rootless" in (info.get("SecurityOptions") or ()) or (
        info.get("OperatingSystem") == "Docker Desktop"
    )
    return forwards or kind == "npipe" or _shares_network(path)


def host_from_here(engine: LocalEngine) -> str:
    """The name or address under which the engine's host is reached, in brackets if it is IPv6;
    `localhost` if nothing else is known.
    """
    parts = urlsplit(engine.url)
    if parts.scheme in {"tcp", "http", "https", "ssh"} and parts.hostname:
        return bracketed(parts.hostname)
    # A socket that is mounted into a container: its host is where the container's packages go
    # first.
    return default_gateway() or "localhost"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, whichever that is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_gateway(routes: Path = _ROUTES) -> str:
    """The IPv4 address of the next hop to everywhere; empty if there is none."""
    try:
        lines = routes.read_text().splitlines()[1:]
    except OSError:
        return ""
    for _, destination, hop, flags, *_ in map(str.split, lines):
        if int(destination, 16) == 0 and int(flags, 16) & _GATEWAY:
            # The kernel prints the address as the machine has it in memory.
            return socket.inet_ntoa(struct.pack("=L", int(hop, 16)))
    return ""


def _shares_network(path: str) -> bool:
    """Whether who listens on this socket has our network namespace. A process that is invisible
    here, as everything outside of a container, has not.
    """
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            # Of the process that began to listen, which with socket activation is systemd.
            peer = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    except (OSError, AttributeError):
        return False

    process, _, _ = _PEER.unpack(peer)
    # What the kernel says of a process that is not in this PID namespace.
    if not process:
        return False

    try:
        theirs = Path(f"/proc/{process}/ns/net").stat().st_ino
        return theirs == Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        # Only root may look: on most machines there is one namespace for both.
        return True
