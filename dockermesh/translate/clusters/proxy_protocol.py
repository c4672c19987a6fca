"""The PROXY protocol towards a service: the server learns the client's address before the first
byte of payload.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import base_pb2, proxy_protocol_pb2
from envoy.extensions.transport_sockets.proxy_protocol.v3 import (
    upstream_proxy_protocol_pb2,
)
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2

from dockermesh.config.api.destination_rule import ProxyProtocol, ProxyProtocolVersion
from dockermesh.translate.envoy.packing import pack

_VERSIONS = {
    ProxyProtocolVersion.V1: proxy_protocol_pb2.ProxyProtocolConfig.V1,
    ProxyProtocolVersion.V2: proxy_protocol_pb2.ProxyProtocolConfig.V2,
}


def announce_client(cluster: Any, wanted: ProxyProtocol) -> None:
    """Put the PROXY protocol around whatever transport the cluster has."""
    # Where an endpoint's socket is chosen, the cluster's own is not used.
    for choice in cluster.transport_socket_matches:
        _wrap(choice.transport_socket, wanted)
    if not cluster.transport_socket_matches:
        _wrap(cluster.transport_socket, wanted)


def _wrap(socket: Any, wanted: ProxyProtocol) -> None:
    # A cluster without a socket speaks plaintext; said here, as the wrapper needs one inside.
    inner = base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer",
        typed_config=pack(raw_buffer_pb2.RawBuffer()),
    )
    if socket.name:
        inner.CopyFrom(socket)
    outer = upstream_proxy_protocol_pb2.ProxyProtocolUpstreamTransport(
        config=proxy_protocol_pb2.ProxyProtocolConfig(
            version=_VERSIONS[wanted.version]
        ),
        transport_socket=inner,
    )
    socket.name = "envoy.transport_sockets.upstream_proxy_protocol"
    socket.typed_config.CopyFrom(pack(outer))
