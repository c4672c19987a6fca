"""Published ports: which move to the gateway, and which host and gateway ports they become.

Invariant: no two mappings share a listener of the gateway, nor a host port at one address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject.options import InjectionFinding, PortMapping
from dockermesh.inject.plan import Meshed
from dockermesh.inject.settings import conventions
from dockermesh.model import (
    ADMIN_PORT,
    DNS_PORT,
    INBOUND_PORT,
    OUTBOUND_PORT,
    PROMETHEUS_PORT,
    READINESS_PORT,
    Protocol,
)
from dockermesh.model.protocol import infer_protocol

ENTRY_HOST_PORT = 30080
ENTRY_GATEWAY_PORT = 80
_RESERVED = frozenset(
    {ADMIN_PORT, DNS_PORT, INBOUND_PORT, OUTBOUND_PORT, PROMETHEUS_PORT, READINESS_PORT}
)
_SPARE_LISTENERS = 20000
# Ports of well-known protocols that are not HTTP and that a gateway may only pass through.
_NOT_HTTP = frozenset(
    {
        21,
        23,
        110,
        143,
        389,
        465,
        587,
        636,
        993,
        995,
        1433,
        1521,
        1883,
        2181,
        4222,
        5671,
        5672,
        6650,
    }
)
_NOT_HTTP_HIGH = frozenset({8883, 9042, 9092, 11211, 25565, 26257, 27018, 27019, 61616})


@dataclass(frozen=True, slots=True)
class Published:
    """A published port of a meshed service that a gateway can serve."""

    service: str
    target: int
    port: int
    host_ip: str
    http: bool


def split_ports(
    services: Iterable[Meshed],
) -> tuple[list[Published], dict[str, list[dict[str, Any]]], list[InjectionFinding]]:
    """The ports that move, in the project's order; those that stay on the pod, by service; and why
    they stay.
    """
    moving: list[Published] = []
    staying: dict[str, list[dict[str, Any]]] = {}
    notices: list[InjectionFinding] = []

    for service in services:
        for port in service.definition.get("ports") or ():
            reason = _stays(port)
            if reason is None:
                moving.append(_published(service, port))
                continue

            staying.setdefault(service.name, []).append(dict(port))
            text = f"port {_text(port)} stays on its pod, not on the gateway: {reason}"
            if service.replicas > 1:
                text += "; only one replica can have it"
            notices.append(InjectionFinding(service.name, text))

    return moving, staying, notices


def map_ports(
    moving: Sequence[Published], specs: Sequence[str], user_http: Sequence[int] = ()
) -> tuple[PortMapping, ...]:
    """The gateway's mappings. `user_http` are the HTTP ports that the user's own Gateways serve,
    best first.

    Raises InputError if a spec names nothing that is published, or two mappings want one host port.
    """
    chosen = _chosen(moving, specs)
    if not specs and ENTRY_HOST_PORT not in {port.port for port in moving}:
        entry = next((port for port in moving if port.http), None)
        if entry is not None:
            chosen[entry] = ENTRY_HOST_PORT

    mappings = [
        PortMapping(
            service=port.service,
            target=port.target,
            published=port.port,
            host_port=chosen.get(port, port.port),
            gateway_port=0,
            protocol="http" if port.http else "tcp",
            host_ip=port.host_ip,
        )
        for port in moving
    ]
    _refuse_doubles(mappings)
    return _with_listeners(
        mappings, [chosen.get(port) is not None for port in moving], user_http
    )


def _with_listeners(
    mappings: list[PortMapping], named: list[bool], user_http: Sequence[int]
) -> tuple[PortMapping, ...]:
    """Give the entry the gateway's port 80 (or the user's), the others a listener with their own
    number.
    """
    entry = _entry(mappings, named)
    entry_port = user_http[0] if user_http else ENTRY_GATEWAY_PORT
    taken = set(_RESERVED) if entry is None else {*_RESERVED, entry_port}

    found: list[PortMapping] = []
    for i, mapping in enumerate(mappings):
        listener = entry_port if i == entry else _free(mapping.host_port, taken)
        taken.add(listener)
        found.append(replace(mapping, gateway_port=listener))

    return tuple(found)


def _entry(mappings: Sequence[PortMapping], named: Sequence[bool]) -> int | None:
    """Which mapping is the way in: an HTTP port that the user named, else the one at 30080, else
    the first.
    """
    http = [i for i, mapping in enumerate(mappings) if mapping.protocol == "http"]
    by_name = (i for i in http if named[i])
    by_number = (i for i in http if mappings[i].host_port == ENTRY_HOST_PORT)
    return next(chain(by_name, by_number, http), None)


def _free(wanted: int, taken: set[int]) -> int:
    candidate = wanted
    while candidate in taken:
        candidate = max(candidate, _SPARE_LISTENERS) + 1
    return candidate


def _chosen(moving: Sequence[Published], specs: Sequence[str]) -> dict[Published, int]:
    chosen: dict[Published, int] = {}
    for spec in specs:
        left, colon, right = spec.rpartition(":")
        if not colon or not right.isdigit() or not 0 < int(right) < 65536:
            raise InputError(
                f"{spec!r} is not A:B",
                where="--gateway-port",
                fix="write PUBLISHED:HOSTPORT, like 9081:30080",
            )

        for port in _named(left, spec, moving):
            # The command line comes first and wins over x-dockermesh.
            chosen.setdefault(port, int(right))

    return chosen


def _named(left: str, spec: str, moving: Sequence[Published]) -> list[Published]:
    name, _, target = left.partition(":")
    if name.isdigit():
        # The number may be published at several addresses of the host; all of them move.
        found = [port for port in moving if port.port == int(name) and not target]
        missing = f"no meshed service publishes port {left}"
    else:
        ports = (port for port in moving if port.service == name)
        found = [port for port in ports if target in ("", str(port.target))][:1]
        missing = f"no meshed service {left!r} publishes a TCP port"

    if not found:
        fix = f"published ports: {_known(moving)}"
        raise InputError(f"{spec!r}: {missing}", where="--gateway-port", fix=fix)
    return found


def _known(moving: Sequence[Published]) -> str:
    return (
        ", ".join(f"{port.port} ({port.service}:{port.target})" for port in moving)
        or "none"
    )


def _refuse_doubles(mappings: Sequence[PortMapping]) -> None:
    seen: dict[int, list[PortMapping]] = {}
    for mapping in mappings:
        for other in seen.setdefault(mapping.host_port, []):
            if mapping.host_ip == other.host_ip or "" in (
                mapping.host_ip,
                other.host_ip,
            ):
                raise InputError(
                    f"host port {mapping.host_port} is wanted by {other.service} and by"
                    f" {mapping.service}",
                    where="gateway ports",
                    fix=f"give one of them another with --gateway-port {mapping.published}:PORT",
                )

        seen[mapping.host_port].append(mapping)


def _published(service: Meshed, port: Mapping[str, Any]) -> Published:
    target = int(port["target"])
    declared = conventions(service.definition)
    protocol = infer_protocol(
        declared=str(
            port.get("app_protocol")
            or declared.get(f"SERVICE_{target}_PROTOCOL")
            or declared.get("SERVICE_PROTOCOL")
            or ""
        ),
        port_name=str(port.get("name") or ""),
        number=target,
    )
    known_other = target in _NOT_HTTP or target in _NOT_HTTP_HIGH

    return Published(
        service=service.name,
        target=target,
        port=int(port["published"]),
        host_ip=str(port.get("host_ip") or ""),
        http=protocol.is_http or (protocol is Protocol.AUTO and not known_other),
    )


def _stays(port: Mapping[str, Any]) -> str | None:
    if port.get("protocol", "tcp") != "tcp":
        return f"the gateway does not serve {port['protocol']}"
    published = str(port.get("published") or "")
    if not published or published == "0":
        return "Docker chooses its number"
    if not published.isdigit():
        return "its number is a range"
    return None


def _text(port: Mapping[str, Any]) -> str:
    return (
        f"{port.get('published') or ''}:{port['target']}/{port.get('protocol', 'tcp')}"
    )
