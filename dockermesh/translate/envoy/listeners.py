"""Parts of listeners: filter chains, the filters that end them, and what looks at first bytes."""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.type.v3 import range_pb2

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
_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate
SNIFFED_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What the HTTP inspector reports as the application protocol."""
SNIFF_TIMEOUT_S = 5.0
"""A client that says nothing for so long speaks a server-first protocol (Istio:
protocolDetectionTimeout).
"""


SILENCE_S = 0.1
"""The same where no rule and no policy looks at requests, so that taking some for bytes costs
little; a server's proxy is told what its client's took them for.
"""
CONNECT_ATTEMPTS = 3
"""Envoy tries one endpoint unless it is told otherwise; another may well be there."""


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
            max_connect_attempts=uint32(CONNECT_ATTEMPTS),
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


def inspect_only(made: Any, ports: set[int], wanted: set[int]) -> None:
    """Have the inspector look at `wanted` alone; 0 stands for all ports without chains of their
    own.
    """
    # Every wait for first bytes is one that a server-first protocol would sit through, so ports
    # that need none are told to skip it.
    if 0 in wanted:
        others = ports - wanted
        if others:
            made.filter_disabled.CopyFrom(_any_of(others))
    else:
        made.filter_disabled.not_match.CopyFrom(_any_of(wanted))


def _any_of(ports: set[int]) -> Any:
    # Envoy's ranges end before `end`, and it refuses an OR of fewer than two.
    ranges = [
        _Predicate(
            destination_port_range=range_pb2.Int32Range(start=port, end=port + 1)
        )
        for port in sorted(ports)
    ]
    return (
        ranges[0]
        if len(ranges) == 1
        else _Predicate(or_match=_Predicate.MatchSet(rules=ranges))
    )
