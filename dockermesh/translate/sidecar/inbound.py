"""The inbound side of a sidecar: what its app serves, in which mode, and the clusters that lead to
it.

Nothing here contains the replica's address, so replicas of a service share these resources.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from envoy.config.cluster.v3 import cluster_pb2

from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    RetryBudget,
)
from dockermesh.config.api.gateway import ServerTlsSettings
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.resource import Resource
from dockermesh.model import Port, Protocol
from dockermesh.model.protocol_selection import infer_protocol
from dockermesh.translate.clusters.cluster import (
    inbound_cluster,
    limit_inbound,
    original_destination,
    static_cluster,
)
from dockermesh.translate.clusters.limiter import limiter_cluster
from dockermesh.translate.clusters.protocol import set_inbound_protocol
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.client_state import lead_from_client
from dockermesh.translate.envoy.offered import Spoken
from dockermesh.translate.envoy.workload_metadata import (
    ServiceName,
    describe_service,
)
from dockermesh.translate.mesh.peer_authentication import PERMISSIVE, PortModes
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.security.global_limits import asks_limiter
from dockermesh.translate.security.policies import NO_POLICIES, Policies
from dockermesh.translate.security.rate_limits import NO_LIMITS, Limits
from dockermesh.translate.tls import server_tls
from dockermesh.xds.protobuf import serialised

Owners = tuple[ServiceName | None, ...]
"""The services whose ports a sidecar serves, one for each port."""


@dataclass(frozen=True, slots=True)
class Served:
    """A port that the app serves; a Sidecar may add TLS that the proxy terminates, and where the
    app really listens. `pool` and `retry_budget` limit what the proxy passes on to it.
    """

    port: Port
    tls: ServerTlsSettings | None = None
    endpoint: str = ""
    pool: ConnectionPoolSettings | None = None
    retry_budget: RetryBudget | None = None

    @property
    def is_http(self) -> bool:
        """Whether requests arrive, after TLS if that is terminated here."""
        return self.port.protocol.is_http or (
            self.tls is not None and self.port.protocol is Protocol.HTTPS
        )


@dataclass(frozen=True, slots=True)
class Inbound:
    """Everything that a sidecar's inbound resources are made of but `Owners`, with which no two
    services would share anything.

    `identity` is that of a workload of a node's proxy, which has the certificates of many.
    """

    served: tuple[Served, ...] = ()
    modes: PortModes = PERMISSIVE
    policies: Policies = NO_POLICIES
    limits: Limits = NO_LIMITS
    identity: str = ""

    @property
    def at_node(self) -> bool:
        """Whether the proxy serves other workloads, too."""
        return bool(self.identity)

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


def app_clusters(own: Inbound, owners: Owners) -> list[cluster_pb2.Cluster]:
    """The clusters of every port that the app serves, which say whose it is."""
    if own.at_node:
        # Workloads of several services share it there.
        return [c for served in own.served for c in _app_clusters(served, at_node=True)]

    found = []
    for served, owner in zip(own.served, owners, strict=True):
        for cluster in _app_clusters(served, at_node=False):
            if owner is not None:
                describe_service(cluster.metadata, owner)
            found.append(cluster)
    return found


def other_clusters(own: Inbound, settings: MeshSettings) -> list[cluster_pb2.Cluster]:
    """The cluster for all other ports, and that of the limiter where one of the limits needs it."""
    return [
        original_destination(
            names.INBOUND_PASSTHROUGH_CLUSTER, bind_source=True, at_node=own.at_node
        ),
        *([limiter_cluster(settings)] if asks_limiter(own.limits.resources) else ()),
    ]


def _app_clusters(served: Served, *, at_node: bool) -> Iterable[cluster_pb2.Cluster]:
    yield app_cluster(served, at_node=at_node)
    if served.port.protocol is Protocol.AUTO:
        yield app_cluster(served, at_node=at_node, spoken=Spoken.HTTP1)


def app_cluster(
    served: Served, *, at_node: bool, spoken: Spoken | None = None
) -> cluster_pb2.Cluster:
    """The cluster that leads to the app's port. At a node all workloads whose ports are served in
    one way share one, of which the name tells them apart from others. `spoken`: what the client is
    known to have spoken, to a port that does not say so itself.
    """
    port = served.port
    name = names.inbound_cluster(port.number, "http1" if spoken is not None else "")
    address, target = _endpoint(served.endpoint)
    # To the port itself the dialled address leads anyway, without naming one.
    if not address or target == port.number:
        cluster = inbound_cluster(name, at_node=at_node)
    else:
        cluster = static_cluster(name, address, target)
        if at_node:
            lead_from_client(cluster)

    limit_inbound(cluster, served.pool, served.retry_budget)
    set_inbound_protocol(cluster, served.pool, spoken=spoken or _spoken(served))
    if at_node:
        content = blake2b(serialised(cluster), digest_size=4).hexdigest()
        cluster.name = f"{cluster.name}{content}"
    return cluster


def _spoken(served: Served) -> Spoken:
    if not served.is_http:
        return Spoken.AS_CLIENT
    return Spoken.HTTP2 if served.port.protocol.is_http2 else Spoken.HTTP1


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
