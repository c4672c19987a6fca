"""The mesh's names, as a sidecar has them: a table that the pod's name server asks.

It answers the IPv4 address of a name of the mesh, and that it does not exist for every other. What
follows from that for a client's question, the name server decides (`compose/images/pod/dns`).
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.listener.v3 import (
    listener_components_pb2,
    listener_pb2,
    udp_listener_config_pb2,
)
from envoy.data.dns.v3 import dns_table_pb2
from envoy.extensions.filters.udp.dns_filter.v3 import dns_filter_pb2
from google.protobuf import any_pb2

from dockermesh.model import DNS_NAMES_PORT
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import loopback_udp
from dockermesh.translate.envoy.packing import pack, seconds
from dockermesh.xds.protobuf import frame, serialised

_TTL_S = 30
_MAX_DATAGRAM = 9000
_Config = dns_filter_pb2.DnsFilterConfig
_SERVER = _Config.SERVER_CONFIG_FIELD_NUMBER
_TABLE = _Config.ServerContextConfig.INLINE_DNS_TABLE_FIELD_NUMBER


def domains(hosts: Iterable[str], vip: str) -> bytes:
    """The serialised table that answers these names with a virtual IP. Tables behind each other are
    the table of all.
    """
    table = dns_table_pb2.DnsTable()
    for name in hosts:
        domain = table.virtual_domains.add(name=name, answer_ttl=seconds(_TTL_S))
        domain.endpoint.address_list.address.append(vip)
    return serialised(table)


def dns_listener(table: bytes) -> listener_pb2.Listener:
    """The table over UDP on loopback. Without a client config nothing is forwarded."""
    listener = table_listener(names.DNS_LISTENER, DNS_NAMES_PORT, "dns", table)
    socket = listener.udp_listener_config.downstream_socket_config
    socket.max_rx_datagram_size.value = _MAX_DATAGRAM
    return listener


def table_listener(
    name: str, port: int, prefix: str, table: bytes
) -> listener_pb2.Listener:
    """A name server for a serialised table, at this port of loopback."""
    config = pack(_Config(stat_prefix=prefix))
    packed = any_pb2.Any(
        type_url=config.type_url,
        # The table stays bytes: with many services it takes long to build.
        value=config.value + frame(_SERVER, frame(_TABLE, table)),
    )
    return listener_pb2.Listener(
        name=name,
        address=loopback_udp(port),
        udp_listener_config=udp_listener_config_pb2.UdpListenerConfig(),
        listener_filters=[
            listener_components_pb2.ListenerFilter(
                name="envoy.filters.udp.dns_filter", typed_config=packed
            )
        ],
        traffic_direction="OUTBOUND",
    )
