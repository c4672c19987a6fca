"""The DNS listeners of a sidecar: the mesh's names are answered on the spot, all others by the
machine's resolver.

In a pod that is Docker's; beside a process outside Docker, which the proxy is not told, what
/etc/resolv.conf names.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import (
    listener_components_pb2,
    listener_pb2,
    udp_listener_config_pb2,
)
from envoy.data.dns.v3 import dns_table_pb2
from envoy.extensions.filters.udp.dns_filter.v3 import dns_filter_pb2
from envoy.extensions.network.dns_resolver.cares.v3 import cares_dns_resolver_pb2

from dockermesh.model import DNS_PORT
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import loopback_udp, socket_address
from dockermesh.translate.envoy.listeners import filter_chain, tcp_filter
from dockermesh.translate.envoy.packing import pack, seconds

_TTL_S = 30
DOCKER_RESOLVER = "127.0.0.11"


def dns_table(hosts: Iterable[tuple[str, str]]) -> dns_table_pb2.DnsTable:
    """The table that answers each (name, virtual IP)."""
    table = dns_table_pb2.DnsTable(external_retry_count=1)
    for name, vip in hosts:
        domain = table.virtual_domains.add(name=name, answer_ttl=seconds(_TTL_S))
        domain.endpoint.address_list.address.append(vip)
    return table


def dns_listener(table: dns_table_pb2.DnsTable) -> listener_pb2.Listener:
    """DNS over UDP on loopback; queries of the app are redirected here by the capture rules."""
    # A fallback only: what /etc/resolv.conf names is asked, which in a pod is this very resolver.
    resolver = cares_dns_resolver_pb2.CaresDnsResolverConfig(
        resolvers=[socket_address(DOCKER_RESOLVER, 53)], use_resolvers_as_fallback=True
    )
    # The app's own resolver has put search domains to the name already, where they belong.
    resolver.dns_resolver_options.no_default_search_domain = True
    config = dns_filter_pb2.DnsFilterConfig(
        stat_prefix="dns",
        server_config=dns_filter_pb2.DnsFilterConfig.ServerContextConfig(
            inline_dns_table=table
        ),
        client_config=dns_filter_pb2.DnsFilterConfig.ClientContextConfig(
            resolver_timeout=seconds(5),
            max_pending_lookups=256,
            typed_dns_resolver_config=extension_pb2.TypedExtensionConfig(
                name="envoy.network.dns_resolver.cares", typed_config=pack(resolver)
            ),
        ),
    )

    return listener_pb2.Listener(
        name=names.DNS_LISTENER,
        address=loopback_udp(DNS_PORT),
        udp_listener_config=udp_listener_config_pb2.UdpListenerConfig(
            downstream_socket_config={"max_rx_datagram_size": {"value": 9000}}
        ),
        listener_filters=[
            listener_components_pb2.ListenerFilter(
                name="envoy.filters.udp.dns_filter", typed_config=pack(config)
            )
        ],
        traffic_direction="OUTBOUND",
    )


def dns_tcp_listener() -> listener_pb2.Listener:
    """DNS over TCP: passed to Docker's resolver; clients use it for answers too long for UDP, never
    for ours.
    """
    return listener_pb2.Listener(
        name=names.DNS_TCP_LISTENER,
        address=socket_address("127.0.0.1", DNS_PORT),
        filter_chains=[filter_chain(tcp_filter(names.DNS_CLUSTER))],
        traffic_direction="OUTBOUND",
    )
