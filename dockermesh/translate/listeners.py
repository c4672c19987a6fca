"""Outbound listeners of sidecars: where an app's own connections arrive.

Captured connections come in at `virtualOutbound` (15001) and are handed to the listener of their
original destination, which is never bound: `0.0.0.0_9080` for HTTP (one route table for all
services on the port), the service's virtual IP for TCP. What no listener claims goes where the app
wanted it.
"""

from __future__ import annotations

from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from dockermesh.model import OUTBOUND_PORT, Port, Service
from dockermesh.translate import names
from dockermesh.translate.endpoints import socket_address
from dockermesh.translate.http import boolean, connection_manager, pack, seconds, uint32
from dockermesh.translate.settings import MeshSettings

ORIGINAL_DST = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.original_dst", typed_config=pack(original_dst_pb2.OriginalDst())
)
HTTP_INSPECTOR = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.http_inspector",
    typed_config=pack(http_inspector_pb2.HttpInspector()),
)
TLS_INSPECTOR = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.tls_inspector", typed_config=pack(tls_inspector_pb2.TlsInspector())
)
SNIFFED_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What the HTTP inspector reports as the application protocol."""
SNIFF_TIMEOUT_S = 5.0
"""A client that says nothing for so long speaks a server-first protocol (Istio:
protocolDetectionTimeout).
"""


def filter_chain(*filters: listener_components_pb2.Filter, name: str = "", **match: Any) -> Any:
    """A filter chain; keyword arguments are fields of its FilterChainMatch."""
    chain = listener_components_pb2.FilterChain(filters=filters, name=name)
    if match:
        chain.filter_chain_match.CopyFrom(listener_components_pb2.FilterChainMatch(**match))
    return chain


def http_filter(manager: Any) -> listener_components_pb2.Filter:
    """The network filter of an HTTP connection manager."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )


def tcp_filter(cluster: str) -> listener_components_pb2.Filter:
    """The network filter that proxies bytes to a cluster."""
    return proxy_filter(
        tcp_proxy_pb2.TcpProxy(stat_prefix=cluster, cluster=cluster, max_connect_attempts=uint32(3))
    )


def proxy_filter(proxy: tcp_proxy_pb2.TcpProxy) -> listener_components_pb2.Filter:
    """The network filter of a TCP proxy."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)
    )


def virtual_outbound(*, allow_any: bool) -> listener_pb2.Listener:
    """The listener on 15001, on loopback: only the pod's own processes are redirected to it."""
    unknown = names.PASSTHROUGH_CLUSTER if allow_any else names.BLACK_HOLE_CLUSTER
    return listener_pb2.Listener(
        name=names.VIRTUAL_OUTBOUND,
        address=socket_address("127.0.0.1", OUTBOUND_PORT),
        use_original_dst=boolean(True),
        traffic_direction="OUTBOUND",
        filter_chains=[
            # A connection to 15001 itself would be forwarded to itself for ever.
            filter_chain(
                tcp_filter(names.BLACK_HOLE_CLUSTER),
                name="virtualOutbound-trap",
                destination_port=uint32(OUTBOUND_PORT),
            ),
            filter_chain(tcp_filter(unknown), name="virtualOutbound-catchall-tcp"),
        ],
    )


def http_port_chain(port: int, settings: MeshSettings) -> Any:
    """The chain for HTTP to any address on this port; what is not HTTP is left to other chains, as
    in Istio.
    """
    manager = connection_manager(
        f"outbound_0.0.0.0_{port}", rds=str(port), normalization=settings.normalization
    )
    return filter_chain(
        http_filter(manager), transport_protocol="raw_buffer", application_protocols=SNIFFED_HTTP
    )


def port_listener(
    address: str,
    port: int,
    *,
    needs_sni: bool,
    needs_sniffing: bool,
    timeout: float = SNIFF_TIMEOUT_S,
) -> listener_pb2.Listener:
    """The listener of an address and port, without its filter chains."""
    listener = listener_pb2.Listener(
        name=names.listener(address, port),
        address=socket_address(address, port),
        bind_to_port=boolean(False),
        traffic_direction="OUTBOUND",
    )
    if needs_sni or needs_sniffing:
        listener.listener_filters.append(TLS_INSPECTOR)
        if needs_sniffing:
            listener.listener_filters.append(HTTP_INSPECTOR)
        sniff(listener, timeout)
    return listener


def unknown_chain(*, allow_any: bool) -> Any:
    """What happens to connections to unknown destinations."""
    return filter_chain(
        tcp_filter(names.PASSTHROUGH_CLUSTER if allow_any else names.BLACK_HOLE_CLUSTER)
    )


def sniffed_route(service: Service, port: Port) -> str:
    """The route table of a port whose protocol is sniffed."""
    return f"{service.hostname}:{port.number}"


def sniff(listener: listener_pb2.Listener, timeout: float = SNIFF_TIMEOUT_S) -> None:
    """Wait a bounded time for the client's first bytes, then go on without knowing the protocol."""
    listener.listener_filters_timeout.CopyFrom(seconds(timeout))
    listener.continue_on_listener_filters_timeout = True


def loopback_udp(port: int) -> address_pb2.Address:
    """A UDP address on loopback."""
    return address_pb2.Address(
        socket_address=address_pb2.SocketAddress(
            address="127.0.0.1", port_value=port, protocol=address_pb2.SocketAddress.UDP
        )
    )
