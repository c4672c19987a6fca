"""Which VirtualServices are bound to which servers of a gateway, and for which hosts.

Source of the rules: Istio's Gateway reference and `pilot/pkg/networking/core/gateway.go`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from dockermesh.config.api.gateway import Gateway, Server
from dockermesh.config.api.virtual_service import VirtualService
from dockermesh.config.hosts import matches
from dockermesh.config.resource import Resource
from dockermesh.translate.mesh.visibility import is_exported
from dockermesh.translate.routes.virtual_service import qualified_gateway
from dockermesh.translate.tls.server_tls import PASSES_THROUGH

_HTTP = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB"})


@dataclass(frozen=True, slots=True)
class BoundServer:
    """A server and the resource that it stands in."""

    server: Server
    gateway: Resource[Gateway]

    @property
    def name(self) -> str:
        """The gateway by the name that VirtualServices use."""
        return f"{self.gateway.namespace}/{self.gateway.name}"

    @property
    def title(self) -> str:
        """The server as messages name it."""
        port = self.server.port
        return (
            f"server {self.server.name or port.name} (port {port.number})"
            if port is not None
            else "server"
        )

    @property
    def number(self) -> int:
        """The port that clients call, which rules and route names mean; 0 without one."""
        return self.server.port.number if self.server.port is not None else 0

    @property
    def protocol(self) -> str:
        """The protocol in upper case."""
        return self.server.port.protocol.upper() if self.server.port is not None else ""

    @property
    def is_plain_http(self) -> bool:
        """Whether requests arrive without TLS."""
        return self.protocol in _HTTP

    @property
    def is_tls(self) -> bool:
        """Whether connections arrive in TLS."""
        # On an HTTP port TLS settings are no TLS: they say that clients are redirected to it.
        return not self.is_plain_http and self.server.tls is not None

    @property
    def terminates(self) -> bool:
        """Whether the gateway is the end of TLS."""
        return (
            self.is_tls
            and self.server.tls is not None
            and self.server.tls.mode not in PASSES_THROUGH
        )

    @property
    def hosts(self) -> list[str]:
        """The hosts without the namespaces, in lower case."""
        return list(
            dict.fromkeys(host.rpartition("/")[2].lower() for host in self.server.hosts)
        )

    def open_to(self, namespace: str) -> Iterator[str]:
        """The hosts that resources of a namespace may have, in lower case."""
        for host in self.server.hosts:
            scope, _, pattern = host.rpartition("/")
            # `.` is the gateway's own namespace, not that of who asks.
            wanted = self.gateway.namespace if scope == "." else scope
            if wanted in {"", "*", namespace}:
                yield pattern.lower()


def bound_hosts(
    resource: Resource[VirtualService], servers: Iterable[BoundServer]
) -> list[str]:
    """The hosts that both the VirtualService and a server of a gateway it names have."""
    spec = resource.spec
    named = {qualified_gateway(g, resource.namespace) for g in spec.gateways}
    # Not a set, which has another order in every process.
    hosts: dict[str, None] = {}

    for bound in servers:
        if bound.name not in named or not is_exported(
            spec.export_to, resource.namespace, bound.gateway.namespace
        ):
            continue

        for pattern in bound.open_to(resource.namespace):
            narrow = (intersect(host.lower(), pattern) for host in spec.hosts)
            hosts.update((host, None) for host in narrow if host is not None)

    return list(hosts)


def intersect(a: str, b: str) -> str | None:
    """The narrower of two host patterns where one contains the other; None where they have nothing
    in common.
    """
    if matches(b, a):
        return a
    return b if matches(a, b) else None
