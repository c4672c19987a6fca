"""Which ports are taken where the engine publishes them: asked of the engine, as this machine may
be another one.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from dockermesh.client.compose.compose_failure import mesh_ports
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.whereabouts import is_loopback, publishes_here
from dockermesh.errors import EngineError, InputError
from dockermesh.inject.images import Images
from dockermesh.inject.options import PortMapping
from dockermesh.model.contract import COMPOSE_PROJECT

_WILDCARDS = {"", "0.0.0.0", "::"}
_PAGES = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP port that is taken at an address, and by whom as far as that is known."""

    address: str
    port: int
    owner: str = ""

    def bars(self, address: str, port: int) -> bool:
        """Whether somebody else cannot listen there."""
        same = _WILDCARDS & {address, self.address} or address == self.address
        return port == self.port and bool(same)


class HostPorts:
    """The ports of the host that an engine publishes on."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def taken(self, address: str, port: int) -> str:
        """Who has the port, for a message; empty if it is free as far as that can be told."""
        for listener in self.published:
            if listener.bars(address, port):
                return f"container {listener.owner} publishes it"
        if self._is_here:
            return _refusal(address, port)
        if any(listener.bars(address, port) for listener in self._listening):
            return "something listens there on the engine's host"
        return ""

    @cached_property
    def published(self) -> list[Listener]:
        """What the engine's containers publish."""
        return [
            Listener(binding.get("IP", ""), int(binding["PublicPort"]), owner)
            for container in self._engine.containers()
            for owner in (container["Names"][0].lstrip("/"),)
            for binding in container.get("Ports") or ()
            if "PublicPort" in binding and binding.get("Type") == "tcp"
        ]

    @cached_property
    def _is_here(self) -> bool:
        return publishes_here(self._engine)

    @cached_property
    def _listening(self) -> list[Listener]:
        """Whoever listens on the engine's host; nothing where no image is there to look with, which
        leaves the question to Compose.
        """
        image = Images.from_environment(os.environ).pod
        if not self._engine.has_image(image):
            return []
        with contextlib.suppress(EngineError):
            # The engine's API tells of containers alone; who else listens stands in its host's
            # /proc.
            page = self._engine.run_once(image, ["cat", *_PAGES], network="host")
            return list(listeners(page.decode("ascii", "replace")))
        return []


def check_ports(
    engine: LocalEngine, project: str, ports: Iterable[PortMapping]
) -> None:
    """Raise InputError if the engine's host has no place for one of the gateway's ports."""
    # Run again, `up` finds the ports taken by the project itself.
    ours = {
        int(binding["PublicPort"])
        for container in engine.containers([f"{COMPOSE_PROJECT}={project}"])
        for binding in container.get("Ports") or ()
        if "PublicPort" in binding
    }
    host = HostPorts(engine)

    for mapping in ports:
        if mapping.host_port in ours:
            continue
        _check_own(mapping)
        why = host.taken(mapping.host_ip, mapping.host_port)

        if why:
            raise InputError(
                f"port {mapping.host_port} is taken ({why})",
                where=f"gateway port of {mapping.service}",
                fix=(
                    f"stop what listens there (`ss -ltnp sport = :{mapping.host_port}`), "
                    f"or choose another: --gateway-port {mapping.published}:PORT"
                ),
            )


def _check_own(mapping: PortMapping) -> None:
    variable = next(
        (v for v, number in mesh_ports(os.environ) if number == str(mapping.host_port)),
        "",
    )
    if variable and (mapping.host_ip in _WILDCARDS or is_loopback(mapping.host_ip)):
        raise InputError(
            f"port {mapping.host_port} is one of the mesh's own",
            where=f"gateway port of {mapping.service}",
            fix=(
                f"set {variable} to another, or choose another here: --gateway-port"
                f" {mapping.published}:PORT"
            ),
        )


def listeners(pages: str) -> Iterator[Listener]:
    """What listens, by the lines of /proc/net/tcp and /proc/net/tcp6 of a little-endian machine."""
    for words in map(str.split, pages.splitlines()):
        if len(words) > 3 and words[3] == _LISTEN:
            address, _, port = words[1].partition(":")
            yield Listener(_address(address), int(port, 16))


def _address(text: str) -> str:
    """The kernel prints addresses as words of the machine's byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    return str(ipaddress.ip_address(struct.pack(f"<{len(words)}L", *words)))


def _refusal(address: str, port: int) -> str:
    """Why a port of this machine cannot be bound; empty if it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        # Connections that have ended (TIME_WAIT) bar no listener that says so, as most servers
        # do.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address or "0.0.0.0", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""
