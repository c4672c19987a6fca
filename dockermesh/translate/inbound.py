"""The inbound side of a sidecar: one listener on 15006, a filter chain for every port that the app serves.

Nothing here contains the replica's address, so replicas of a service share these resources.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2

from dockermesh.config.api.gateway import ServerTlsSettings
from dockermesh.config.api.sidecar import Sidecar
from dockermesh.config.resource import Resource
from dockermesh.model import INBOUND_PORT, Port, Protocol
from dockermesh.model.protocol import infer_protocol
from dockermesh.translate import clusters, names, server_tls
from dockermesh.translate.endpoints import socket_address
from dockermesh.translate.http import boolean, connection_manager, uint32
from dockermesh.translate.listeners import (
    HTTP_INSPECTOR,
    ORIGINAL_DST,
    SNIFFED_HTTP,
    TLS_INSPECTOR,
    filter_chain,
    http_filter,
    sniff,
    tcp_filter,
)
from dockermesh.translate.policies import NO_POLICIES, Policies, SecurityFilters, security_filters
from dockermesh.translate.routes import inbound_table
from dockermesh.translate.settings import MeshSettings


@dataclass(frozen=True, slots=True)
class Served:
    """A port that the app serves; a Sidecar may add TLS that the proxy terminates, and where the app really listens."""

    port: Port
    tls: ServerTlsSettings | None = None
    endpoint: str = ""

    @property
    def is_http(self) -> bool:
        """Whether requests arrive, after TLS if that is terminated here."""
        return self.port.protocol.is_http or (self.tls is not None and self.port.protocol is Protocol.HTTPS)


def served_ports(ports: Iterable[Port], sidecar: Resource[Sidecar] | None) -> tuple[Served, ...]:
    """What the proxy serves: what the Sidecar lists, else the ports of the app."""
    if sidecar is None or not sidecar.spec.ingress:
        return tuple(Served(port) for port in ports)
    found: dict[int, Served] = {}
    for listener in sidecar.spec.ingress:
        if listener.port is None:
            continue
        number, name = listener.port.number, listener.port.name
        protocol = infer_protocol(declared=listener.port.protocol, port_name=name, number=number)
        found.setdefault(number, Served(Port(number, protocol, name), listener.tls, listener.default_endpoint))
    return tuple(found[number] for number in sorted(found))


def inbound_listener(
    ports: Iterable[Served], settings: MeshSettings, policies: Policies = NO_POLICIES
) -> listener_pb2.Listener:
    """`virtualInbound`: declared ports by their protocol, all other ports as bytes to the app."""
    security = security_filters(policies, settings)
    listener = listener_pb2.Listener(
        name=names.VIRTUAL_INBOUND,
        address=socket_address("0.0.0.0", INBOUND_PORT),
        use_original_dst=boolean(False),
        traffic_direction="INBOUND",
        listener_filters=[ORIGINAL_DST],
        filter_chains=[
            # A connection to 15006 itself would be forwarded to itself for ever.
            filter_chain(
                tcp_filter(names.BLACK_HOLE_CLUSTER),
                name="virtualInbound-blackhole",
                destination_port=uint32(INBOUND_PORT),
            )
        ],
    )
    needs_tls = needs_sniffing = False
    for served in ports:
        listener.filter_chains.extend(_chains(served, settings, security))
        needs_tls = needs_tls or served.tls is not None
        needs_sniffing = needs_sniffing or served.port.protocol is Protocol.AUTO
    if needs_sniffing or needs_tls:
        listener.listener_filters.append(TLS_INSPECTOR)
    if needs_sniffing:
        listener.listener_filters.append(HTTP_INSPECTOR)
    if needs_sniffing or needs_tls:
        sniff(listener, settings.detection_timeout)
    # An ordinary chain, not the default one: what a declared port's own chains refuse must not fall through to it.
    listener.filter_chains.append(
        filter_chain(*security.network, tcp_filter(names.INBOUND_PASSTHROUGH_CLUSTER), name="virtualInbound-catchall")
    )
    return listener


def _chains(served: Served, settings: MeshSettings, security: SecurityFilters) -> Iterator[Any]:
    """The filter chains of a port."""
    port = served.port
    number, cluster = uint32(port.number), names.inbound_cluster(port.number)
    http = http_filter(
        connection_manager(
            f"inbound_0.0.0.0_{port.number}",
            route_config=inbound_table(port.number),
            is_inbound=True,
            normalization=settings.normalization,
            security=security.http,
        )
    )
    tcp = (*security.network, tcp_filter(cluster))
    if served.tls is not None:
        socket = server_tls.transport_socket(served.tls, is_http=served.is_http)
        if socket is not None:
            chain = filter_chain(
                *((http,) if served.is_http else tcp),
                name=f"{port.number}-tls",
                destination_port=number,
                transport_protocol="tls",
            )
            chain.transport_socket.CopyFrom(socket)
            yield chain
            return
    if port.protocol.is_http:
        yield filter_chain(http, name=f"{port.number}-http", destination_port=number)
        return
    yield filter_chain(*tcp, name=f"{port.number}-tcp", destination_port=number)
    if port.protocol is Protocol.AUTO:
        yield filter_chain(
            http, name=f"{port.number}-sniffed", destination_port=number, application_protocols=SNIFFED_HTTP
        )


def inbound_clusters(ports: Iterable[Served]) -> list[cluster_pb2.Cluster]:
    """A cluster for every port that the app serves, and the one for all other ports."""
    return [
        *(_cluster(served) for served in ports),
        clusters.original_destination(names.INBOUND_PASSTHROUGH_CLUSTER, bind_source=True),
    ]


def _cluster(served: Served) -> cluster_pb2.Cluster:
    port = served.port
    address, target = _endpoint(served.endpoint)
    if not address or target == port.number:
        return clusters.inbound_cluster(port.number, is_http=served.is_http, is_http2=port.protocol.is_http2)
    return clusters.static_cluster(names.inbound_cluster(port.number), address, target)


def _endpoint(text: str) -> tuple[str, int]:
    """Address and port of a Sidecar's `defaultEndpoint`; an app that listens everywhere does so on loopback too."""
    if text.startswith("unix://"):
        return text.removeprefix("unix://"), -1
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    if not port.isascii() or not port.isdigit():
        return "", 0
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), int(port)


def secret_names(ports: Iterable[Served]) -> list[str]:
    """The secrets that the listener refers to."""
    return [name for served in ports if served.tls is not None for name in server_tls.secret_names(served.tls)]
