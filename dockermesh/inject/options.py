"""What `inject_project` is told, and what it answers.

Invariant: both are values; reading files and the environment is the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dockermesh.inject.images import Images
from dockermesh.model.contract import CONSUL_DOMAIN


@dataclass(frozen=True, slots=True)
class InjectOptions:
    """Choices beside the project.

    `gateway_ports` are `A:B`, A a published port, `service[:port]` or a port of the gateway, B the
    host port it becomes; they go before those in `x-dockermesh`, and `none` instead of those.
    `config` are the user's Istio resources, `stored` those of the mesh that say how proxies start.
    `network` is the mesh network's name; empty: the one in `x-dockermesh`, else `dockermesh`.
    `egress_gateway` asks for a gateway through which traffic leaves the mesh. `consul_domain` is
    what Consul's host names end with. `inactive` are the services of profiles that are not enabled:
    they keep their profile, and nothing of them is at the gateway.
    """

    gateway_ports: tuple[str, ...] = ()
    config: tuple[Mapping[str, Any], ...] = ()
    stored: tuple[Mapping[str, Any], ...] = ()
    network: str = ""
    egress_gateway: bool = False
    consul_domain: str = CONSUL_DOMAIN
    inactive: frozenset[str] = frozenset()
    images: Images = field(default_factory=Images)


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A published port that moved to the gateway.

    `published` is its host port in the user's file, `host_port` the one it became, `gateway_port`
    where the gateway listens. `generated` tells whether Gateway and VirtualService were made for
    it, or come from the user's config. `scheme` is that of the port's URL; empty where it has none.
    """

    service: str
    target: int
    published: int
    host_port: int
    gateway_port: int
    protocol: str
    host_ip: str = ""
    generated: bool = True
    scheme: str = ""


@dataclass(frozen=True, slots=True)
class InjectionFinding:
    """Something the user should know about a service: it is left out, or behaves otherwise than
    before.
    """

    service: str
    text: str

    def __str__(self) -> str:
        return f"{self.service}: {self.text}" if self.service else self.text


@dataclass(frozen=True, slots=True)
class Injection:
    """The meshed project, the overlay that makes it out of the user's file, and what to print."""

    project: dict[str, Any]
    overlay: dict[str, Any]
    ports: tuple[PortMapping, ...] = ()
    notices: tuple[InjectionFinding, ...] = ()
