"""The table of rewrites: which published ports get another number on the host, and which ports of
the gateway are opened beside them.

Invariant: a port that the table does not name keeps its number. What stands first in the table
wins: the command line's, then the file's, then the default.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from dockermesh.errors import InputError
from dockermesh.model import Protocol
from dockermesh.model.protocol_selection import ProtocolRule

ENTRY_HOST_PORT = 30080
DEFAULT = ("9081:30080",)
NOTHING = "none"
"""Instead of A:B: nothing that stands behind it in the table holds."""
STANDARD_PORTS = (80, 443)
"""Ports of a gateway that a Gateway which is applied later is likely to want."""


@dataclass(frozen=True, slots=True)
class Published:
    """A published port of a meshed service that a gateway can serve."""

    service: str
    target: int
    port: int
    host_ip: str
    protocol: Protocol
    protocol_rule: ProtocolRule = ProtocolRule.DECLARED

    @property
    def http(self) -> bool:
        """Whether the gateway routes requests: what nobody declared is taken for HTTP."""
        return self.protocol.is_http or self.protocol is Protocol.AUTO


@dataclass(frozen=True, slots=True)
class Rewrites:
    """Host ports, of published ports and of the gateway's own."""

    published: Mapping[Published, int]
    gateway: Mapping[int, int]


def rewrites(
    moving: Sequence[Published],
    command_line: Sequence[str],
    in_file: Sequence[str],
    gateway_ports: Iterable[int] = (),
) -> Rewrites:
    """Apply the table to the ports of a project. `gateway_ports` are those that the user's own
    Gateways open.

    Raises InputError if an entry that the user wrote names no port.
    """
    published: dict[Published, int] = {}
    gateway: dict[int, int] = {}
    own = {*STANDARD_PORTS, *gateway_ports}
    given, with_default = _table(command_line, in_file)

    for spec in given:
        left, host_port = _parse(spec)
        ports = _named(left, moving)
        for port in ports:
            published.setdefault(port, host_port)
        if not ports:
            gateway.setdefault(_gateway_port(left, spec, own, moving), host_port)

    if with_default:
        _add_default(published, gateway.values(), moving)
    return Rewrites(published, gateway)


def _table(
    command_line: Sequence[str], in_file: Sequence[str]
) -> tuple[list[str], bool]:
    """What the user wrote, and whether the default stands behind it."""
    found: list[str] = []
    for specs in (command_line, in_file):
        found += [spec for spec in specs if spec != NOTHING]
        if NOTHING in specs:
            return found, False
    return found, True


def _add_default(
    published: dict[Published, int],
    taken: Collection[int],
    moving: Sequence[Published],
) -> None:
    """Add the default's entries, where the port is there and nobody else has the new number."""
    for spec in DEFAULT:
        left, host_port = _parse(spec)
        ports = [port for port in _named(left, moving) if port not in published]
        others = {
            published.get(port, port.port) for port in moving if port not in ports
        }
        if host_port not in {*others, *taken}:
            published |= dict.fromkeys(ports, host_port)


def _parse(spec: str) -> tuple[str, int]:
    left, colon, right = spec.rpartition(":")
    if not colon or not right.isdigit() or not 0 < int(right) < 65536:
        raise InputError(
            f"{spec!r} is not A:B",
            where="--gateway-port",
            fix=f"write PUBLISHED:HOSTPORT, like {DEFAULT[0]}, or {NOTHING!r}",
        )
    return left, int(right)


def _named(left: str, moving: Sequence[Published]) -> list[Published]:
    name, _, target = left.partition(":")
    if name.isdigit():
        # The number may be published at several addresses of the host; all of them move.
        return [port for port in moving if port.port == int(name) and not target]
    ports = (port for port in moving if port.service == name)
    return [port for port in ports if target in ("", str(port.target))][:1]


def _gateway_port(
    left: str, spec: str, own: Collection[int], moving: Sequence[Published]
) -> int:
    if left.isdigit() and int(left) in own:
        return int(left)
    missing = (
        f"no meshed service publishes port {left}"
        if left.partition(":")[0].isdigit()
        else f"no meshed service {left!r} publishes a TCP port"
    )
    known = [f"{port.port} ({port.service}:{port.target})" for port in moving]
    raise InputError(
        f"{spec!r}: {missing}",
        where="--gateway-port",
        fix=(
            f"published ports: {', '.join(known) or 'none'}; ports of the gateway itself:"
            f" {', '.join(map(str, sorted(own)))}"
        ),
    )
