"""The way of a request through a proxy: listener, filter chain, route table, virtual host, route.

Works on the configuration alone, as Envoy would: on a sidecar a name leads to its virtual IP, and
that and the port choose the listener (`use_original_dst`); on a gateway the port does.

Source: Envoy's *Listeners*, `FilterChainMatch` (order of criteria) and `VirtualHost.domains` (order
of matches).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dockermesh.client.inspect.dump import Dump, Json
from dockermesh.client.inspect.matching import Request, Verdict, route_matches
from dockermesh.translate.envoy.dialled import is_looked_up_again
from dockermesh.translate.envoy.names import METRICS_LISTENER

_OUTBOUND, _INBOUND = "virtualOutbound", "virtualInbound"


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection at a listener; `server_name` is the SNI, empty without TLS."""

    address: str
    port: int
    server_name: str = ""
    is_tls: bool = False
    protocols: tuple[str, ...] = ("http/1.1",)


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a request ends up in a route table. `passed` are the routes before it, each with why it
    was not taken.
    """

    host: Json | None = None
    domain: str = ""
    route: Json | None = None
    passed: tuple[tuple[Json, Verdict], ...] = ()


def addresses(dump: Dump) -> dict[str, str]:
    """What the proxy's DNS answers, by name."""
    found: dict[str, str] = {}
    for listener in dump.listeners():
        for entry in listener.get("listener_filters", ()):
            table = (
                entry.get("typed_config", {})
                .get("server_config", {})
                .get("inline_dns_table", {})
            )
            for domain in table.get("virtual_domains", ()):
                listed = (
                    domain.get("endpoint", {})
                    .get("address_list", {})
                    .get("address", ())
                )
                found.update(
                    (str(domain.get("name", "")).lower(), str(address))
                    for address in listed[:1]
                )

    return found


def address_of(dump: Dump, host: str) -> str:
    """The address that a client dials for a host; empty if the mesh does not know it."""
    try:
        return str(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return addresses(dump).get(host.lower(), "")


def outbound_listener(dump: Dump, address: str, port: int) -> Json | None:
    """The listener of a sidecar for what its app dials."""
    listeners = [item for item in dump.listeners() if item.get("name") != _INBOUND]
    for wanted in (address, "0.0.0.0", "::"):
        for listener in listeners:
            if (
                wanted
                and socket_of(listener) == (wanted, port)
                and not _is_udp(listener)
            ):
                return listener
    return next((item for item in listeners if item.get("name") == _OUTBOUND), None)


def inbound_listener(dump: Dump) -> Json | None:
    """The listener for what reaches a sidecar."""
    return next(
        (item for item in dump.listeners() if item.get("name") == _INBOUND), None
    )


def gateway_listener(dump: Dump, port: int) -> Json | None:
    """The listener of a gateway: that of the port, or the only one for clients."""
    listed = [item for item in dump.dynamic_listeners() if _is_for_clients(item)]
    found = [item for item in listed if socket_of(item)[1] == port]
    return found[0] if found else listed[0] if len(listed) == 1 else None


def socket_of(listener: Json) -> tuple[str, int]:
    """The address and port of a listener."""
    socket = listener.get("address", {}).get("socket_address", {})
    return str(socket.get("address", "")), int(socket.get("port_value", 0))


def _is_udp(listener: Json) -> bool:
    return "udp_listener_config" in listener


def _is_for_clients(listener: Json) -> bool:
    return not _is_udp(listener) and listener.get("name") != METRICS_LISTENER


def filter_chain(listener: Json, connection: Connection) -> Json | None:
    """The chain that takes a connection: of those that match, the one with the most specific
    match.
    """
    best: tuple[tuple[int, ...], Json] | None = None
    for chain in listener.get("filter_chains", ()):
        rank = _rank(chain.get("filter_chain_match", {}), connection)
        if rank is not None and (best is None or rank > best[0]):
            best = rank, chain
    return best[1] if best is not None else listener.get("default_filter_chain")


def _rank(match: Json, connection: Connection) -> tuple[int, ...] | None:
    """How specific a match is, by Envoy's order of criteria; None if it does not match."""
    port = match.get("destination_port")
    if port is not None and int(port) != connection.port:
        return None

    network = _longest(match.get("prefix_ranges", ()), connection.address)
    name = _longest_name(match.get("server_names", ()), connection.server_name)
    transport = match.get("transport_protocol", "")
    protocols = match.get("application_protocols", ())
    if network is None or name is None:
        return None
    if transport and (transport == "tls") != connection.is_tls:
        return None
    if protocols and not set(protocols) & set(connection.protocols):
        return None

    return (
        int(port is not None),
        network,
        name,
        int(bool(transport)),
        int(bool(protocols)),
    )


def _longest(ranges: Iterable[Json], address: str) -> int | None:
    listed = list(ranges)
    if not listed:
        return 0
    found = [_prefix_length(entry, address) for entry in listed]
    return max((length for length in found if length is not None), default=None)


def _prefix_length(entry: Json, address: str) -> int | None:
    try:
        network = ipaddress.ip_network(
            f"{entry['address_prefix']}/{entry.get('prefix_len', 0)}", strict=False
        )
        return (
            # One more, so that 0.0.0.0/0 ranks above a chain that says nothing of addresses.
            network.prefixlen + 1 if ipaddress.ip_address(address) in network else None
        )
    except (ValueError, KeyError):
        return None


def _longest_name(names: Iterable[str], given: str) -> int | None:
    listed = list(names)
    if not listed:
        return 0
    return max(
        (
            len(n)
            for n in listed
            if n == given or (n.startswith("*.") and given.endswith(n[1:]))
        ),
        default=None,
    )


def network_filter(chain: Json, kind: str) -> Json | None:
    """The configuration of the chain's filter of this type: `HttpConnectionManager`, `TcpProxy`."""
    configs = (entry.get("typed_config", {}) for entry in chain.get("filters", ()))
    return next(
        (
            config
            for config in configs
            if str(config.get("@type", "")).endswith(f".{kind}")
        ),
        None,
    )


def route_table(dump: Dump, manager: Json) -> Json | None:
    """The route table that an HTTP connection manager uses."""
    if "route_config" in manager:
        return dict(manager["route_config"])
    name = manager.get("rds", {}).get("route_config_name", "")
    return next(
        (table for table in dump.dynamic_routes() if table.get("name") == name), None
    )


def find_route(table: Json, request: Request, dialled: str = "") -> Routed:
    """The route that takes a request. One that may take it, for all that is known, is passed with
    the reason. `dialled` is the address that counts where the Host names nobody.
    """
    host, domain = _virtual_host(table, request.authority)
    if host is not None and dialled and is_looked_up_again(host):
        host, domain = _virtual_host(table, dialled)
    if host is None:
        return Routed()

    passed: list[tuple[Json, Verdict]] = []
    for route in host.get("routes", ()):
        verdict = route_matches(route.get("match", {}), request)
        if verdict.answer:
            return Routed(host, domain, route, tuple(passed))
        passed.append((route, verdict))

    return Routed(host, domain, None, tuple(passed))


def _virtual_host(table: Json, authority: str) -> tuple[Json | None, str]:
    """Exact names first, then the longest `*.suffix`, the longest `prefix.*`, and `*`."""
    name = authority.lower()
    if table.get("ignore_port_in_host_matching"):
        name = _without_port(name)
    best: tuple[tuple[int, int], Json, str] | None = None

    for host in table.get("virtual_hosts", ()):
        for domain in host.get("domains", ()):
            rank = _domain_rank(domain.lower(), name)
            if rank is not None and (best is None or rank > best[0]):
                best = rank, host, domain

    return (best[1], best[2]) if best is not None else (None, "")


def _without_port(authority: str) -> str:
    host, colon, port = authority.rpartition(":")
    return (
        host
        if colon and port.isdigit() and (":" not in host or host.endswith("]"))
        else authority
    )


def _domain_rank(domain: str, name: str) -> tuple[int, int] | None:
    if domain == name:
        return 3, 0
    if domain == "*":
        return 0, 0
    if (
        domain.startswith("*")
        and name.endswith(domain[1:])
        and len(name) > len(domain) - 1
    ):
        return 2, len(domain)
    if (
        domain.endswith("*")
        and name.startswith(domain[:-1])
        and len(name) > len(domain) - 1
    ):
        return 1, len(domain)
    return None


def clusters_of(action: Json) -> list[tuple[str, float]]:
    """Where a route or a TCP proxy forwards to, with percentages."""
    if "cluster" in action:
        return [(str(action["cluster"]), 100.0)]
    weighted: list[Any] = action.get("weighted_clusters", {}).get("clusters", [])
    total = sum(int(entry.get("weight", 0)) for entry in weighted) or 1
    return [
        (str(entry.get("name", "")), 100.0 * int(entry.get("weight", 0)) / total)
        for entry in weighted
    ]
