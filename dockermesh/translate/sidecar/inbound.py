"""The inbound side of a sidecar: what its app serves, in which mode, and the clusters that lead to
it.

Nothing here contains the replica's address, so replicas of a service share these resources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from envoy.config.cluster.v3 import cluster_pb2

from dockermesh.config.api.gateway import ServerTlsSettings
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.resource import Resource
from dockermesh.model import Port, Protocol
from dockermesh.model.protocol import infer_protocol
from dockermesh.translate.clusters.cluster import (
    inbound_cluster,
    original_destination,
    static_cluster,
)
from dockermesh.translate.envoy import names
from dockermesh.translate.mesh.peer_authentication import PERMISSIVE, PortModes
from dockermesh.translate.security.policies import NO_POLICIES, Policies
from dockermesh.translate.tls import server_tls


@dataclass(frozen=True, slots=True)
class Served:
    """A port that the app serves; a Sidecar may add TLS that the proxy terminates, and where the
    app really listens.
    """

    port: Port
    tls: ServerTlsSettings | None = None
    endpoint: str = ""

    @property
    def is_http(self) -> bool:
        """Whether requests arrive, after TLS if that is terminated here."""
        return self.port.protocol.is_http or (
            self.tls is not None and self.port.protocol is Protocol.HTTPS
        )


@dataclass(frozen=True, slots=True)
class Inbound:
    """Everything that a sidecar's inbound resources are made of."""

    served: tuple[Served, ...] = ()
    modes: PortModes = PERMISSIVE
    policies: Policies = NO_POLICIES

    @property
    def secrets(self) -> list[str]:
        """The secrets from files that the listener refers to."""
        return [
            n
            for served in self.served
            if served.tls is not None
            for n in server_tls.secret_names(served.tls)
        ]


def served_ports(
    ports: Iterable[Port], sidecar: Resource[Sidecar] | None
) -> tuple[Served, ...]:
    """What the proxy serves: what the Sidecar lists, else the ports of the app."""
    if sidecar is None or not sidecar.spec.ingress:
        return tuple(Served(port) for port in ports)
    # What a Sidecar lists takes the place of what the app declares; ports that it leaves out are
    # treated as undeclared.
    found: dict[int, Served] = {}

    for listener in sidecar.spec.ingress:
        if listener.port is None:
            continue
        number, name = listener.port.number, listener.port.name
        protocol = infer_protocol(
            declared=listener.port.protocol, port_name=name, number=number
        )
        found.setdefault(
            number,
            Served(
                Port(number, protocol, name), listener.tls, listener.default_endpoint
            ),
        )

    # By number: sidecars that serve the same ports are equal keys, in whatever order they say so.
    return tuple(found[number] for number in sorted(found))


def inbound_clusters(ports: Iterable[Served]) -> list[cluster_pb2.Cluster]:
    """A cluster for every port that the app serves, and the one for all other ports."""
    return [
        *(_cluster(served) for served in ports),
        original_destination(names.INBOUND_PASSTHROUGH_CLUSTER, bind_source=True),
    ]


def _cluster(served: Served) -> cluster_pb2.Cluster:
    port = served.port
    address, target = _endpoint(served.endpoint)
    # To the port itself the dialled address leads anyway, without naming one.
    if not address or target == port.number:
        return inbound_cluster(
            port.number, is_http=served.is_http, is_http2=port.protocol.is_http2
        )
    return static_cluster(names.inbound_cluster(port.number), address, target)


def _endpoint(text: str) -> tuple[str, int]:
    """Address and port of a Sidecar's `defaultEndpoint`; an app that listens everywhere does so on
    loopback too.
    """
    if text.startswith("unix://"):
        return text.removeprefix("unix://"), -1
    host, _, port = text.rpartition(":")
    # A URL writes IPv6 in brackets, an Envoy address without.
    host = host.strip("[]")
    if not port.isascii() or not port.isdigit():
        return "", 0
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), int(
        port
    )
