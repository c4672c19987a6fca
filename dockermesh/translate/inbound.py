"""The inbound side of a sidecar: one listener on 15006, a filter chain for every port that the app serves.

Nothing here contains the replica's address, so replicas of a service share these resources.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2

from dockermesh.model import INBOUND_PORT, Port, Protocol
from dockermesh.translate import clusters, names
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
from dockermesh.translate.routes import inbound_table
from dockermesh.translate.settings import MeshSettings


def inbound_listener(ports: Iterable[Port], settings: MeshSettings) -> listener_pb2.Listener:
    """`virtualInbound`: declared ports by their protocol, all other ports as bytes to the app."""
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
    needs_sniffing = False
    for port in ports:
        number, cluster = uint32(port.number), names.inbound_cluster(port.number)
        http = http_filter(
            connection_manager(
                f"inbound_0.0.0.0_{port.number}",
                route_config=inbound_table(port.number),
                is_inbound=True,
                normalization=settings.normalization,
            )
        )
        if port.protocol.is_http:
            listener.filter_chains.append(filter_chain(http, name=f"{port.number}-http", destination_port=number))
            continue
        listener.filter_chains.append(
            filter_chain(tcp_filter(cluster), name=f"{port.number}-tcp", destination_port=number)
        )
        if port.protocol is Protocol.AUTO:
            needs_sniffing = True
            listener.filter_chains.append(
                filter_chain(
                    http,
                    name=f"{port.number}-sniffed",
                    destination_port=number,
                    application_protocols=SNIFFED_HTTP,
                )
            )
    if needs_sniffing:
        listener.listener_filters.extend([TLS_INSPECTOR, HTTP_INSPECTOR])
        sniff(listener, settings.detection_timeout)
    listener.default_filter_chain.CopyFrom(
        filter_chain(tcp_filter(names.INBOUND_PASSTHROUGH_CLUSTER), name="virtualInbound-catchall")
    )
    return listener


def inbound_clusters(ports: Iterable[Port]) -> list[cluster_pb2.Cluster]:
    """A cluster for every port that the app serves, and the one for all other ports."""
    own = [clusters.inbound_cluster(p.number, is_http=p.protocol.is_http, is_http2=p.protocol.is_http2) for p in ports]
    return [*own, clusters.original_destination(names.INBOUND_PASSTHROUGH_CLUSTER, bind_source=True)]
