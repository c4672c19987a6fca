"""Which ports are taken where the engine publishes them: asked of the engine, as this machine may
be another one; and which ones a project is about to publish.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.summary import name_of
from dockermesh.docker.whereabouts import publishes_here
from dockermesh.errors import EngineError, InputError
from dockermesh.inject.images import Images
from dockermesh.inject.options import Injection, PortMapping
from dockermesh.inject.string_map import string_map
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    LABEL_KIND,
    LABEL_SERVICE,
    MESH_PROJECT,
)
from dockermesh.model.workload import WorkloadKind

_WILDCARDS = {"", "0.0.0.0", "::"}
_PAGES = {
    "tcp": ("/proc/net/tcp", "/proc/net/tcp6"),
    "udp": ("/proc/net/udp", "/proc/net/udp6"),
}
_LISTENING = {"tcp": "0A", "udp": "07"}
"""The kernel's states of a socket that takes what comes, by protocol."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A port that is taken at an address, and by whom as far as that is known: which container of
    which project.
    """

    address: str
    port: int
    owner: str = ""
    protocol: str = "tcp"
    project: str = ""

    def bars(self, address: str, port: int, protocol: str = "tcp") -> bool:
        """Whether somebody else cannot listen there."""
        same = _WILDCARDS & {address, self.address} or address == self.address
        return port == self.port and protocol == self.protocol and bool(same)


@dataclass(frozen=True, slots=True)
class WantedPort:
    """What a container of a project publishes: one port, or a range of which Docker takes one."""

    service: str
    address: str
    numbers: range
    protocol: str
    fix: str


class HostPorts:
    """The ports of the host that an engine publishes on."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine = engine

    def taken(
        self, address: str, port: int, protocol: str = "tcp", *, by_mesh: bool = True
    ) -> str:
        """Who has the port, for a message; empty if it is free as far as that can be told. Without
        `by_mesh`, what the mesh itself has is free.
        """
        for listener in self.published:
            if listener.bars(address, port, protocol):
                is_free = listener.project == MESH_PROJECT and not by_mesh
                return "" if is_free else f"container {listener.owner} publishes it"

        if self._is_here and protocol == "tcp":
            return _refusal(address, port)
        if any(found.bars(address, port, protocol) for found in self._listening):
            return "something listens there on the engine's host"
        return ""

    @cached_property
    def published(self) -> list[Listener]:
        """What the engine's containers publish."""
        return [
            Listener(
                binding.get("IP", ""),
                int(binding["PublicPort"]),
                name_of(container),
                binding.get("Type", "tcp"),
                container["Labels"].get(COMPOSE_PROJECT, ""),
            )
            for container in self._engine.containers()
            for binding in container.get("Ports") or ()
            if "PublicPort" in binding
        ]

    @cached_property
    def _is_here(self) -> bool:
        return publishes_here(self._engine)

    @cached_property
    def _listening(self) -> list[Listener]:
        """Whoever listens on the engine's host; nothing where no image is there to look with, which
        leaves the question to Compose.
        """
        return [
            listener
            for protocol, pages in _PAGES.items()
            for listener in listeners(self._read(pages), protocol)
        ]

    def _read(self, pages: Iterable[str]) -> str:
        if self._is_here:
            return "".join(Path(p).read_text() for p in pages if Path(p).exists())
        image = Images.from_environment(os.environ).pod
        if not self._engine.has_image(image):
            return ""
        with contextlib.suppress(EngineError):
            # The engine's API tells of containers alone; who else listens stands in its host's
            # /proc.
            page = self._engine.run_once(image, ["cat", *pages], network="host")
            return page.decode("ascii", "replace")
        return ""


def wanted_ports(injection: Injection) -> list[WantedPort]:
    """Every port that the containers of the meshed project publish, but those whose number is
    Docker's to choose.
    """
    moved = {(port.host_port, port.host_ip): port for port in injection.ports}
    return [
        _wanted(name, service, port, moved)
        for name, service in injection.project["services"].items()
        for port in service.get("ports") or ()
        if str(port.get("published") or "0") != "0"
    ]


def _wanted(
    name: str,
    service: Mapping[str, Any],
    port: Mapping[str, Any],
    moved: Mapping[tuple[int, str], PortMapping],
) -> WantedPort:
    labels = string_map(service.get("labels"))
    address = str(port.get("host_ip") or "")
    first, _, last = str(port["published"]).partition("-")
    numbers = range(int(first), int(last or first) + 1)
    owner = labels.get(LABEL_SERVICE, name)
    fix = "publish it under another number"

    if labels.get(LABEL_KIND) == WorkloadKind.GATEWAY.value:
        mapping = moved.get((numbers.start, address))
        owner = mapping.service if mapping is not None else owner
        number = mapping.published if mapping is not None else port["target"]
        fix = f"choose another: --gateway-port {number}:PORT"

    return WantedPort(owner, address, numbers, port.get("protocol", "tcp"), fix)


def check_ports(host: HostPorts, project: str, wanted: Iterable[WantedPort]) -> None:
    """Raise InputError if the engine's host has no place for one of the project's ports."""
    # Run again, `up` finds the ports taken by the project itself.
    ours = {(p.port, p.protocol) for p in host.published if p.project == project}

    for port in wanted:
        number = port.numbers.start
        if len(port.numbers) > 1 or (number, port.protocol) in ours:
            continue
        why = host.taken(port.address, number, port.protocol, by_mesh=False)
        if why:
            look = f"ss -l{port.protocol[0]}np sport = :{number}"
            raise InputError(
                f"port {number} is taken ({why})",
                where=f"published port of {port.service}",
                fix=f"stop what listens there (`{look}`), or {port.fix}",
            )


def listeners(pages: str, protocol: str = "tcp") -> Iterator[Listener]:
    """What listens, by the lines of /proc/net/tcp, tcp6, udp and udp6 of a little-endian
    machine.
    """
    for words in map(str.split, pages.splitlines()):
        if len(words) > 3 and words[3] == _LISTENING[protocol]:
            address, _, port = words[1].partition(":")
            yield Listener(_address(address), int(port, 16), protocol=protocol)


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
