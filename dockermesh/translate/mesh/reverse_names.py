"""Which service an address is: the names that reverse lookups find.

Of several services with one address the one has it that all projects call so, then the first by
name: replicas of the control plane answer alike. A ServiceEntry's come last.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from dockermesh.model import Service
from dockermesh.translate.mesh.state import MeshState

_V4, _V6 = ".in-addr.arpa", ".ip6.arpa"
_V6_DIGITS = 32


def reverse_names(mesh: MeshState) -> dict[str, str]:
    """Hostnames by the virtual addresses and those of endpoints."""
    found: dict[str, str] = {}
    for service in sorted(mesh.services.values(), key=_precedence):
        # A wildcard is no name.
        if not service.hostname.startswith("*"):
            for address in _addresses(mesh, service):
                found.setdefault(address, service.hostname)
    return found


def _precedence(service: Service) -> tuple[bool, bool, str]:
    return (service.is_declared, bool(service.project), service.hostname)


def _addresses(mesh: MeshState, service: Service) -> list[str]:
    virtual = mesh.vips.get(service.hostname)
    endpoints = [endpoint.address for endpoint in service.endpoints]
    return [virtual, *endpoints] if virtual else endpoints


def reversed_address(name: str) -> str:
    """The address that `4.3.2.1.in-addr.arpa` or its IPv6 counterpart is about; empty if none."""
    try:
        if name.endswith(_V4):
            parts = name.removesuffix(_V4).split(".")
            return str(IPv4Address(".".join(reversed(parts))))
        if name.endswith(_V6):
            digits = "".join(reversed(name.removesuffix(_V6).split(".")))
            if len(digits) == _V6_DIGITS:
                return str(IPv6Address(bytes.fromhex(digits)))
    except ValueError:
        return ""
    return ""
