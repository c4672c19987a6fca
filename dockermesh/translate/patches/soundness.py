"""What Envoy refuses about a whole resource beyond the rules in its protos, as far as patches can
bring it about.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from dockermesh.translate.clusters.protocol import OPTIONS_KEY
from dockermesh.translate.envoy.constraints import violation
from dockermesh.translate.patches.listeners import CONNECTION_MANAGER

_WITHOUT_ALPN = frozenset({"", "envoy.transport_sockets.raw_buffer"})
_ROUTER = "envoy.extensions.filters.http.router.v3.Router"
# Network filters that end a chain: Envoy wants one of them last, and nowhere else.
_TERMINAL = frozenset(
    f"envoy.extensions.filters.network.{name}"
    for name in (
        "http_connection_manager.v3.HttpConnectionManager",
        "tcp_proxy.v3.TcpProxy",
        "redis_proxy.v3.RedisProxy",
        "thrift_proxy.v3.ThriftProxy",
        "dubbo_proxy.v3.DubboProxy",
        "generic_proxy.v3.GenericProxy",
        "echo.v3.Echo",
        "direct_response.v3.Config",
        "reverse_tunnel.v3.ReverseTunnel",
    )
)


def listener_fault(listener: Any) -> str:
    """Why Envoy would refuse the listener; empty if nothing is known against it."""
    chains = [*listener.filter_chains]
    if listener.HasField("default_filter_chain"):
        chains.append(listener.default_filter_chain)
    is_udp = listener.address.socket_address.protocol == address_pb2.SocketAddress.UDP

    # UDP has no connections that a chain could be chosen for.
    if not chains and not is_udp:
        return "the listener would have no filter chain"
    if not all(map(_is_configured, listener.listener_filters)):
        return "a listener filter would have no typed_config"
    # Envoy ignores the match of the default chain.
    if _repeats(
        chain.filter_chain_match.SerializeToString(deterministic=True)
        for chain in listener.filter_chains
    ):
        return "two filter chains would have the same match"

    return next(filter(None, map(_chain_fault, chains)), "") or violation(listener)


def _is_configured(one: Any) -> bool:
    """Whether a filter says what it is: Envoy looks it up by the type of its configuration."""
    kind = one.WhichOneof("config_type")
    return kind is not None and (
        kind != "typed_config" or bool(one.typed_config.type_url)
    )


def _chain_fault(chain: Any) -> str:
    if not all(map(_is_configured, chain.filters)):
        return "a network filter would have no typed_config"
    # Of a filter that comes by extension discovery nothing is known here: it may end the chain.
    types = [f.typed_config.TypeName() for f in chain.filters]
    if any(kind in _TERMINAL for kind in types[:-1]):
        return "a network filter would come after one that ends the chain"
    if types and types[-1] and types[-1] not in _TERMINAL:
        return f"the filter chain would end with {types[-1]}, which does not end it"

    managers = [m for f in chain.filters if (m := _manager_in(f)) is not None]
    return next(filter(None, map(_manager_fault, managers)), "")


def _manager_in(network_filter: Any) -> Any:
    """The filter's connection manager; None if it is something else."""
    manager = hcm_pb2.HttpConnectionManager()
    is_one = (
        network_filter.name == CONNECTION_MANAGER
        and network_filter.typed_config.Unpack(manager)
    )
    return manager if is_one else None


def _manager_fault(manager: Any) -> str:
    kinds = [f.typed_config.TypeName() for f in manager.http_filters]
    if not kinds or kinds[-1] != _ROUTER or _ROUTER in kinds[:-1]:
        return (
            "the router would not be the last HTTP filter; use INSERT_BEFORE"
            " envoy.filters.http.router"
        )
    if not all(f.name and _is_configured(f) for f in manager.http_filters):
        return "an HTTP filter would have no name or no typed_config"
    return table_fault(manager.route_config) if manager.HasField("route_config") else ""


def table_fault(table: Any) -> str:
    """Why Envoy would refuse the route table."""
    # A name or a domain twice costs the whole table in Envoy, which compares domains without
    # regard to case.
    if _repeats(host.name for host in table.virtual_hosts):
        return "two virtual hosts would have the same name"
    if _repeats(
        domain.lower() for host in table.virtual_hosts for domain in host.domains
    ):
        return "a domain would be there twice"
    return violation(table)


def cluster_fault(cluster: Any) -> str:
    """Why Envoy would refuse the cluster."""
    if cluster.HasField("transport_socket") and cluster.transport_socket_matches:
        return "the cluster would have a transport socket and a choice of them"
    if _negotiates(cluster) and cluster.transport_socket.name in _WITHOUT_ALPN:
        return (
            "HTTP/1.1 or HTTP/2 would be agreed on without TLS; set explicit_http_config, or"
            " h2UpgradePolicy DO_NOT_UPGRADE in a DestinationRule"
        )
    return violation(cluster)


def _negotiates(cluster: Any) -> bool:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    packed = cluster.typed_extension_protocol_options.get(OPTIONS_KEY)
    return (
        packed is not None
        and packed.Unpack(options)
        and options.HasField("auto_config")
    )


def _repeats(texts: Iterable[str | bytes]) -> bool:
    listed = list(texts)
    return len(set(listed)) != len(listed)
