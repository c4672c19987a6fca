"""Which ports of a container may become endpoints.

Source: registrator, `bridge/bridge.go` (add): exposed ports overlaid by the published ones.
"""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.model.contract import PROXY_PORTS
from dockermesh.registrar.container import Binding, Container
from dockermesh.registrar.options import Options

# They are the proxy's, whatever an image exposes.
_PROXY_KEYS = frozenset(f"{n}/{p}" for n in PROXY_PORTS for p in ("tcp", "udp"))


@dataclass(frozen=True, slots=True)
class ExposedPort:
    """A port, and where it is published."""

    exposed: str
    protocol: str
    binding: Binding | None


def served_ports(
    container: Container, owner: Container | None, options: Options
) -> list[ExposedPort]:
    """Those that can be reached: within the mesh and at containers' own addresses all, else the
    published ones.
    """
    meshed = is_meshed(container, owner)
    ports = _ports(container, owner if meshed else None)
    return ports if meshed or options.internal else [p for p in ports if _published(p)]


def is_meshed(container: Container, owner: Container | None) -> bool:
    """Whether it is an app of the mesh."""
    return container.role == "app" and (owner is None or owner.role == "pod")


def _published(port: ExposedPort) -> bool:
    return port.binding is not None and bool(port.binding.port)


def _ports(container: Container, pod: Container | None) -> list[ExposedPort]:
    # As registrator: exposed ports count as published under their own number, which holds for the
    # host's network; what Docker says of real publications then replaces that.
    exposed = set(container.exposed)
    if pod is not None:
        exposed |= {*pod.exposed, *pod.bindings} - _PROXY_KEYS

    found: dict[str, Binding | None] = {
        key: Binding("0.0.0.0", key.split("/")[0]) for key in exposed
    }
    found |= container.bindings
    ports = [
        ExposedPort(key.split("/")[0], key.partition("/")[2] or "tcp", binding)
        for key, binding in found.items()
    ]

    return sorted(ports, key=lambda p: (int(p.exposed), p.protocol))
