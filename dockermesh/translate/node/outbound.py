"""Where the connections of apps arrive at a node's proxy: one listener in each workload's network
namespace.

A sidecar hands a captured connection to the listener of its destination. That way it would lose
what is known of its client, so here the chains of all those listeners stand in the workload's own,
each for the port and address that its listener had.

Invariant: a connection is taken by the chain that a sidecar's listeners would have given it. Envoy
looks for a chain criterion by criterion and never goes back, so whatever a sidecar's listener
leaves to its default chain is said here at every step at which the search can end.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.listeners import (
    HTTP_INSPECTOR,
    ORIGINAL_DST,
    TLS_INSPECTOR,
    filter_chain,
    inspect_only,
    sniff,
    tcp_filter,
)
from dockermesh.translate.envoy.packing import uint32
from dockermesh.translate.mesh.vips import VIP_RANGE

_ANY = "0.0.0.0"
_Match = listener_components_pb2.FilterChainMatch
_NARROWEST_FIRST = (
    "source_prefix_ranges",
    "application_protocols",
    "transport_protocol",
    "server_names",
    "prefix_ranges",
)
"""The criteria in the order opposite to that in which Envoy looks at them."""


def shared_outbound(
    listeners: Iterable[listener_pb2.Listener],
) -> listener_pb2.Listener:
    """What the outbound listeners of all workloads of a view share, made of those of a sidecar."""
    made = listener_pb2.Listener(listener_filters=[ORIGINAL_DST])
    found = [item for item in listeners if not item.HasField("udp_listener_config")]
    virtual = [item for item in found if item.name == names.VIRTUAL_OUTBOUND]
    of_ports = [item for item in found if _is_of_port(item)]

    for listener in virtual:
        _take_virtual(made, listener)
    for listener in of_ports:
        made.filter_chains.extend(_chains(listener))
    made.filter_chains.extend(_lost(of_ports))
    _inspect(made, of_ports)
    return made


def _is_of_port(listener: listener_pb2.Listener) -> bool:
    return listener.HasField("bind_to_port") and not listener.bind_to_port.value


def _take_virtual(made: listener_pb2.Listener, virtual: listener_pb2.Listener) -> None:
    """The trap, and the chain of all that has no listener of its own."""
    made.access_log.extend(virtual.access_log)
    for chain in virtual.filter_chains:
        if chain.HasField("filter_chain_match"):
            made.filter_chains.add().CopyFrom(chain)
        else:
            made.default_filter_chain.CopyFrom(chain)


def _chains(listener: listener_pb2.Listener) -> Iterator[Any]:
    """The chains of a listener, for its port and address alone, and its default wherever the search
    among them can end.
    """
    own = _place(listener)
    chains = [made for c in listener.filter_chains if (made := _moved(c, own))]
    yield from chains
    if not listener.HasField("default_filter_chain"):
        return

    seen = {c.filter_chain_match.SerializeToString() for c in chains}
    for chain in chains:
        for match in _wider(chain.filter_chain_match, own):
            key = match.SerializeToString()
            if key not in seen:
                seen.add(key)
                rest = listener_components_pb2.FilterChain()
                rest.CopyFrom(listener.default_filter_chain)
                rest.filter_chain_match.CopyFrom(match)
                yield rest


def _place(listener: listener_pb2.Listener) -> Any:
    at = listener.address.socket_address
    match = _Match(destination_port=uint32(at.port_value))
    if at.address != _ANY:
        match.prefix_ranges.append(_network(ipaddress.ip_network(at.address)))
    return match


def _moved(chain: Any, own: Any) -> Any:
    """The chain with the match of its listener's place; None if it can match nothing there."""
    given = chain.filter_chain_match
    made = listener_components_pb2.FilterChain()
    made.CopyFrom(chain)
    match = made.filter_chain_match
    match.destination_port.CopyFrom(own.destination_port)
    if own.prefix_ranges:
        if given.prefix_ranges and not _contains(given, own):
            return None
        del match.prefix_ranges[:]
        match.prefix_ranges.extend(own.prefix_ranges)
    return made


def _contains(given: Any, own: Any) -> bool:
    address = ipaddress.ip_address(own.prefix_ranges[0].address_prefix)
    networks = (f"{r.address_prefix}/{r.prefix_len.value}" for r in given.prefix_ranges)
    return any(address in ipaddress.ip_network(text, strict=False) for text in networks)


def _wider(match: Any, own: Any) -> Iterator[Any]:
    """The match with ever fewer criteria, down to the listener's own place."""
    now = _Match()
    now.CopyFrom(match)
    for criterion in _NARROWEST_FIRST:
        now.ClearField(criterion)
        if criterion == "prefix_ranges":
            now.prefix_ranges.extend(own.prefix_ranges)
        made = _Match()
        made.CopyFrom(now)
        yield made


def _lost(listeners: Iterable[listener_pb2.Listener]) -> Iterator[Any]:
    """Chains that refuse virtual addresses at ports that their services do not declare: nobody is
    there, and a client would wait for an answer.
    """
    places = [item.address.socket_address for item in listeners]
    shared = {at.port_value for at in places if at.address == _ANY}
    for port in sorted({at.port_value for at in places} - shared):
        yield _refusal(destination_port=uint32(port))
    yield _refusal()


def _refusal(**match: Any) -> Any:
    return filter_chain(
        tcp_filter(names.BLACK_HOLE_CLUSTER),
        name="virtualOutbound-undeclared",
        prefix_ranges=[_network(ipaddress.ip_network(VIP_RANGE))],
        **match,
    )


def _network(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Any:
    return address_pb2.CidrRange(
        address_prefix=str(network.network_address),
        prefix_len=uint32(network.prefixlen),
    )


def _inspect(
    made: listener_pb2.Listener, listeners: list[listener_pb2.Listener]
) -> None:
    """Look at the first bytes on the ports at which a listener does."""
    ports = {item.address.socket_address.port_value for item in listeners}
    for inspector in (TLS_INSPECTOR, HTTP_INSPECTOR):
        wanted = {
            item.address.socket_address.port_value
            for item in listeners
            if any(f.name == inspector.name for f in item.listener_filters)
        }
        if wanted:
            added = made.listener_filters.add()
            added.CopyFrom(inspector)
            inspect_only(added, ports, wanted)

    # One listener has one time limit. The longest: a client of HTTP that is silent for a moment is
    # not to be taken for one of another kind.
    waits = [item.listener_filters_timeout for item in listeners if _sniffs(item)]
    if waits:
        sniff(made, max(wait.ToNanoseconds() for wait in waits) / 1e9)


def _sniffs(listener: listener_pb2.Listener) -> bool:
    return bool(listener.continue_on_listener_filters_timeout)
