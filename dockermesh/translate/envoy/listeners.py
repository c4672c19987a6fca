"""Parts of listeners: filter chains, the filters that end them, and what looks at first bytes."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from dockermesh.translate.envoy.packing import pack, seconds, uint32

# Captured connections all arrive at one port; the kernel still knows where they were going.
ORIGINAL_DST = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.original_dst",
    typed_config=pack(original_dst_pb2.OriginalDst()),
)
HTTP_INSPECTOR = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.http_inspector",
    typed_config=pack(http_inspector_pb2.HttpInspector()),
)
TLS_INSPECTOR = listener_components_pb2.ListenerFilter(
    name="envoy.filters.listener.tls_inspector",
    typed_config=pack(tls_inspector_pb2.TlsInspector()),
)
SNIFFED_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What the HTTP inspector reports as the application protocol."""
SNIFF_TIMEOUT_S = 5.0
"""A client that says nothing for so long speaks a server-first protocol (Istio:
protocolDetectionTimeout).
"""


def filter_chain(
    *filters: listener_components_pb2.Filter, name: str = "", **match: Any
) -> Any:
    """A filter chain; keyword arguments are fields of its FilterChainMatch."""
    chain = listener_components_pb2.FilterChain(filters=filters, name=name)
    if match:
        chain.filter_chain_match.CopyFrom(
            listener_components_pb2.FilterChainMatch(**match)
        )
    return chain


def http_filter(manager: Any) -> listener_components_pb2.Filter:
    """The network filter of an HTTP connection manager."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )


def tcp_filter(cluster: str) -> listener_components_pb2.Filter:
    """The network filter that proxies bytes to a cluster."""
    return proxy_filter(
        tcp_proxy_pb2.TcpProxy(
            stat_prefix=cluster,
            cluster=cluster,
            # Envoy tries one endpoint unless it is told otherwise; another may well be there.
            max_connect_attempts=uint32(3),
        )
    )


def proxy_filter(proxy: tcp_proxy_pb2.TcpProxy) -> listener_components_pb2.Filter:
    """The network filter of a TCP proxy."""
    return listener_components_pb2.Filter(
        name="envoy.filters.network.tcp_proxy", typed_config=pack(proxy)
    )


def sniff(listener: listener_pb2.Listener, timeout: float = SNIFF_TIMEOUT_S) -> None:
    """Wait a bounded time for the client's first bytes, then go on without knowing the protocol."""
    listener.listener_filters_timeout.CopyFrom(seconds(timeout))
    # Else Envoy closes the connection of a client that waits for the server to begin.
    listener.continue_on_listener_filters_timeout = True
