"""The mesh's own ports on the host: taken where they are free, else the next ones.

Invariant: an app's port wins, unless a variable names the mesh's; a mesh keeps the ports that it
has, whatever the environment of the next `up` says nothing about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain, count
from typing import Any

from dockermesh.client.compose.host_ports import HostPorts, Listener, WantedPort
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.model.contract import (
    API_PORT,
    CONSUL_CONTAINER,
    CONTROL_PLANE_CONTAINER,
    DEBUG_PORT,
    ENV_API_PORT,
    ENV_DEBUG_PORT,
    ENV_DNS_ADDRESS,
    ENV_GRAFANA_PORT,
    ENV_PROMETHEUS_PORT,
    ENV_ZIPKIN_PORT,
    GRAFANA_CONTAINER,
    PROMETHEUS_CONTAINER,
    SPANS_PORT,
    ZIPKIN_CONTAINER,
)

_LOOPBACK = "127.0.0.1"
_DNS_PORT = 53
_DNS_INSIDE = "8600/udp"
_SPARE_DNS_PORTS = range(10053, 19954, 100)
"""On loopback; the variable for the address can only be continued by 53."""


@dataclass(frozen=True, slots=True)
class MeshPort:
    """A port on the host's loopback, by the variable of mesh.yaml that moves it."""

    variable: str
    what: str
    container: str
    inside: str
    default: int

    def number(self, env: Mapping[str, str]) -> str:
        """The port by the environment, as mesh.yaml reads it."""
        return env.get(self.variable) or str(self.default)


MESH_PORTS = (
    MeshPort("CONSUL_PORT", "Consul's API", CONSUL_CONTAINER, "8500/tcp", 8500),
    MeshPort(
        ENV_API_PORT,
        "the config API",
        CONTROL_PLANE_CONTAINER,
        f"{API_PORT}/tcp",
        API_PORT,
    ),
    MeshPort(
        ENV_DEBUG_PORT,
        "the debug pages",
        CONTROL_PLANE_CONTAINER,
        f"{DEBUG_PORT}/tcp",
        DEBUG_PORT,
    ),
)

TELEMETRY_PORTS = (
    MeshPort(ENV_PROMETHEUS_PORT, "Prometheus", PROMETHEUS_CONTAINER, "9090/tcp", 9090),
    MeshPort(ENV_GRAFANA_PORT, "Grafana", GRAFANA_CONTAINER, "3000/tcp", 3000),
    MeshPort(
        ENV_ZIPKIN_PORT, "Zipkin", ZIPKIN_CONTAINER, f"{SPANS_PORT}/tcp", SPANS_PORT
    ),
)
"""The same of what shows telemetry, by the variables of telemetry.yaml."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The settings for mesh.yaml, and what is not where one would look for it."""

    settings: Mapping[str, str]
    notes: tuple[str, ...] = ()


def choose_ports(
    engine: LocalEngine,
    host: HostPorts,
    wanted: Sequence[WantedPort],
    env: Mapping[str, str],
    containers: Set[str],
    gateway: str,
) -> Choice:
    """Where the ports of these containers of the mesh are to be; `gateway` is the mesh network's
    own address, where Consul's DNS is published.

    Raises InputError for a port that a variable names and that somebody else has.
    """
    picker = _Picker(host, wanted)
    settings: dict[str, str] = {}
    notes: list[str] = []
    found = {name: engine.inspect(name) for name in containers}

    # Those with a number of the user's first: no other may take it.
    known = (*MESH_PORTS, *TELEMETRY_PORTS)
    for port in sorted(known, key=lambda port: not env.get(port.variable)):
        if port.container not in containers:
            continue
        had = _had(found[port.container], port.inside)
        if given := env.get(port.variable):
            picker.check(given, port, had)
            settings[port.variable] = given
            continue

        number, why = picker.pick(port, had)
        settings[port.variable] = str(number)
        if number != port.default:
            because = f" ({port.default}: {why})" if why else ""
            notes.append(f"{port.what} on port {number} of {_LOOPBACK}{because}")

    if CONSUL_CONTAINER in containers and not env.get(ENV_DNS_ADDRESS):
        had = _had(found[CONSUL_CONTAINER], _DNS_INSIDE)
        address, number = picker.pick_dns(had, gateway)
        settings[ENV_DNS_ADDRESS] = f"{address}:{str(number).removesuffix('53')}"
        if number != _DNS_PORT:
            notes.append(f"Consul's DNS on {address}:{number}")

    return Choice(settings, tuple(notes))


@dataclass(frozen=True, slots=True)
class _Had:
    """Where a container of the mesh has a port, or had it while it ran."""

    address: str
    number: int
    running: bool

    @property
    def place(self) -> tuple[str, int]:
        """Address and port."""
        return self.address, self.number


@dataclass(slots=True)
class _Picker:
    """Picks ports that neither the app wants nor somebody has, each once."""

    host: HostPorts
    wanted: Sequence[WantedPort]
    picked: set[int] = field(default_factory=set)

    def check(self, given: str, port: MeshPort, had: _Had | None) -> None:
        """Raise InputError if a port that the user chose cannot be had."""
        if not given.isdigit():
            return
        number = int(given)
        if why := self._barred((_LOOPBACK, number), "tcp", had):
            raise InputError(
                f"port {number} is taken ({why})",
                where=port.variable,
                fix=f"choose another for {port.what}, or unset {port.variable}",
            )
        self.picked.add(number)

    def pick(self, port: MeshPort, had: _Had | None) -> tuple[int, str]:
        """The number, and why it is not the usual one."""
        why = ""
        kept = [had.number] if had is not None else []
        for number in chain(kept, count(port.default)):
            reason = self._barred((_LOOPBACK, number), "tcp", had)
            if not reason and number not in self.picked:
                self.picked.add(number)
                return number, why
            if number == port.default:
                why = reason
        raise AssertionError("there is always another number")

    def pick_dns(self, had: _Had | None, usual: str) -> tuple[str, int]:
        """Address and port of Consul's DNS."""
        kept = [had.place] if had is not None else []
        spare = ((_LOOPBACK, number) for number in _SPARE_DNS_PORTS)
        for place in chain(kept, [(usual, _DNS_PORT)], spare):
            if not self._barred(place, "udp", had):
                return place
        return usual, _DNS_PORT

    def _barred(self, place: tuple[str, int], protocol: str, had: _Had | None) -> str:
        """Why the mesh cannot have a port; empty if it can, or has it already."""
        address, number = place
        mine = Listener(address, number, protocol=protocol)
        for port in self.wanted:
            if number in port.numbers and mine.bars(
                port.address, number, port.protocol
            ):
                return f"{port.service} publishes it"

        is_held = had is not None and had.running and had.place == place
        return "" if is_held else self.host.taken(address, number, protocol)


def has_now(engine: LocalEngine, port: MeshPort) -> int | None:
    """Where the mesh that runs has a port."""
    had = _had(engine.inspect(port.container), port.inside)
    return had.number if had is not None and had.running else None


def _had(found: Mapping[str, Any] | None, inside: str) -> _Had | None:
    # Of a container that is stopped, only this tells.
    bindings = (found or {}).get("HostConfig", {}).get("PortBindings") or {}
    for binding in bindings.get(inside) or ():
        if str(binding.get("HostPort")).isdigit():
            running = bool((found or {})["State"]["Running"])
            return _Had(binding.get("HostIp") or "", int(binding["HostPort"]), running)
    return None
