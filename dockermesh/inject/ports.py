"""Published ports: which move to the gateway, and which host and gateway ports they become.

Invariant: no two mappings share a listener of the gateway, nor a host port at one address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dockermesh.errors import InputError
from dockermesh.inject.options import InjectionFinding, PortMapping
from dockermesh.inject.plan import Meshed
from dockermesh.inject.rewrites import ENTRY_HOST_PORT, Published
from dockermesh.inject.settings import conventions
from dockermesh.model import Protocol
from dockermesh.model.contract import PROXY_PORTS
from dockermesh.model.protocol_selection import ProtocolRule, select_protocol

ENTRY_GATEWAY_PORT = 80
_SPARE_LISTENERS = 20000


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
            reason = _stays(port, service)
            if reason is None:
                moved = _published(service, port)
                moving.append(moved)
                notices += filter(None, [_assumption(moved)])
                continue

            staying.setdefault(service.name, []).append(dict(port))
            text = f"port {_text(port)} stays on its pod, not on the gateway: {reason}"
            if service.replicas > 1 and not is_chosen(port):
                text += "; only one replica can have it"
            notices.append(InjectionFinding(service.name, text))

    return moving, staying, notices


def map_ports(
    moving: Sequence[Published],
    chosen: Mapping[Published, int],
    user_http: Sequence[int] = (),
) -> tuple[PortMapping, ...]:
    """The gateway's mappings; `chosen` has the host ports of those that do not keep their number.
    `user_http` are the HTTP ports that the user's own Gateways serve, best first.

    Raises InputError if two mappings want one host port.
    """
    mappings = [
        PortMapping(
            service=port.service,
            target=port.target,
            published=port.port,
            host_port=chosen.get(port, port.port),
            gateway_port=0,
            protocol="http" if port.http else "tcp",
            host_ip=port.host_ip,
            scheme=_scheme(port),
        )
        for port in moving
    ]
    _refuse_doubles(mappings)
    return _with_listeners(mappings, _entry(moving, chosen), user_http)


def _scheme(port: Published) -> str:
    """What a browser calls the port by; nothing where it would be of no use there."""
    if port.protocol is Protocol.HTTPS:
        return "https"
    return "http" if port.http and port.protocol is not Protocol.GRPC else ""


def _with_listeners(
    mappings: list[PortMapping], entry: int | None, user_http: Sequence[int]
) -> tuple[PortMapping, ...]:
    """Give the entry the gateway's port 80 (or the user's), the others a listener with their own
    number.
    """
    entry_port = user_http[0] if user_http else ENTRY_GATEWAY_PORT
    taken = set(PROXY_PORTS) if entry is None else {*PROXY_PORTS, entry_port}

    found: list[PortMapping] = []
    for i, mapping in enumerate(mappings):
        listener = entry_port if i == entry else _free(mapping.host_port, taken)
        taken.add(listener)
        found.append(replace(mapping, gateway_port=listener))

    return tuple(found)


def _entry(moving: Sequence[Published], chosen: Mapping[Published, int]) -> int | None:
    """Which of the ports is the way in, whose listener a Gateway for port 80 takes over."""

    def rank(i: int) -> tuple[bool, bool, bool, bool]:
        port = moving[i]
        return (
            port not in chosen,
            chosen.get(port, port.port) != ENTRY_HOST_PORT,
            # Pages come before what programs alone call, and before what nobody declared.
            port.protocol is Protocol.GRPC,
            port.protocol is Protocol.AUTO,
        )

    return min(
        (i for i, port in enumerate(moving) if port.http), key=rank, default=None
    )


def _free(wanted: int, taken: set[int]) -> int:
    candidate = wanted
    while candidate in taken:
        candidate = max(candidate, _SPARE_LISTENERS) + 1
    return candidate


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
    selected = select_protocol(
        declared=str(
            port.get("app_protocol")
            or declared.get(f"SERVICE_{target}_PROTOCOL")
            or declared.get("SERVICE_PROTOCOL")
            or ""
        ),
        port_name=str(port.get("name") or ""),
        image=str(service.definition.get("image") or ""),
        number=target,
    )
    # A gateway that routes requests does not look at first bytes.
    is_known = selected.rule is not ProtocolRule.SNIFFED

    return Published(
        service=service.name,
        target=target,
        port=int(port["published"]),
        host_ip=str(port.get("host_ip") or ""),
        protocol=selected.protocol,
        protocol_rule=selected.rule if is_known else ProtocolRule.ASSUMED,
    )


def _assumption(port: Published) -> InjectionFinding | None:
    """What to do where a port is not what it is taken for."""
    if port.protocol_rule is not ProtocolRule.ASSUMED:
        return None
    text = (
        f"port {port.port}:{port.target} assumed http; if not:"
        f" SERVICE_{port.target}_PROTOCOL=tls (or tcp) in its environment or labels"
    )
    return InjectionFinding(port.service, text)


def _stays(port: Mapping[str, Any], service: Meshed) -> str | None:
    if not service.is_active:
        return "its profile is not enabled, and what is not there takes no port"
    if port.get("protocol", "tcp") != "tcp":
        return f"the gateway does not serve {port['protocol']}"
    published = str(port.get("published") or "")
    if not published or published == "0":
        return "Docker chooses its number"
    if not published.isdigit():
        return "its number is a range"
    return None


def is_chosen(port: Mapping[str, Any]) -> bool:
    """Whether Docker chooses the number, each replica's of its own."""
    published = str(port.get("published") or "0")
    return published == "0" or not published.isdigit()


def _text(port: Mapping[str, Any]) -> str:
    return (
        f"{port.get('published') or ''}:{port['target']}/{port.get('protocol', 'tcp')}"
    )
