"""Outbound TCP and TLS: which filter chains a service's ports add to which listeners.

A connection reaches a service by its virtual IP or one of its own addresses. TLS to a ServiceEntry
without addresses is known by its SNI at any address, too. Its port belongs to it everywhere only
where it has no virtual IP either, as its clients dial addresses of their own choice (resolution
NONE, wildcard hosts; Istio's rule).

Invariant: a chain matches at most one server name and one network, so that equal matches, which
Envoy refuses in one listener, can be seen and dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2

from dockermesh.config.api.virtual_service import RouteDestination, VirtualService
from dockermesh.config.resource import Resource
from dockermesh.model import Port, Protocol, Service
from dockermesh.translate.envoy.connection_manager import connection_manager
from dockermesh.translate.envoy.isolation import sound
from dockermesh.translate.envoy.listeners import (
    SNIFFED_HTTP,
    filter_chain,
    http_filter,
    proxy_filter,
)
from dockermesh.translate.envoy.packing import uint32
from dockermesh.translate.mesh.service_entries import networks
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.routes.virtual_service import RouteContext, applies
from dockermesh.xds.protobuf import frame, serialised

ANY_ADDRESS = "0.0.0.0"
TLS_PROTOCOLS = frozenset({Protocol.TLS, Protocol.HTTPS})
_CHAINS, _DEFAULT_CHAIN = 3, 25  # field numbers in envoy.config.listener.v3.Listener


@dataclass(frozen=True, slots=True)
class Chain:
    """A filter chain as bytes, and the bytes of its match by which it is told from others."""

    match: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a service adds to the listener of an address and port. `rest` is for what no chain
    matches. `may_be_bytes`: nothing is lost if a client that is silent for a moment is not waited
    for, though it may speak HTTP.
    """

    address: str
    port: int
    chains: tuple[Chain, ...] = ()
    rest: bytes = b""
    needs_sni: bool = False
    needs_sniffing: bool = False
    may_be_bytes: bool = False


@dataclass(frozen=True, slots=True)
class _Match:
    sni: str = ""
    network: str = ""
    source: str = ""


def contributions(
    service: Service,
    port: Port,
    vip: str,
    rule: Resource[VirtualService] | None,
    context: RouteContext,
    *,
    http_table: str,
    is_judged: bool,
    has_policies: bool,
) -> list[Contribution]:
    """What a port of a service that is not declared as HTTP adds to the outbound listeners.

    Where its protocol is sniffed, requests have their routes in `http_table`, of which one decides
    by what they say if `is_judged`; `has_policies`: those of its server may look at requests.
    """
    settings = context.destinations.mesh.settings
    default = proxy_filter(context.destinations.service_filter(service, port))
    is_tls = port.protocol in TLS_PROTOCOLS

    chains = dict(_routed(rule, port, context))
    # A rule that matches everything leaves nothing to the default.
    rest = chains.pop(_Match(), None) or _chain(_Match(), default)
    is_sniffed = port.protocol is Protocol.AUTO and not chains
    if is_tls:
        by_name = _Match(sni=service.hostname)
        chains.setdefault(by_name, _chain(by_name, default))

    listed = list(chains.items())
    needs_sni = any(match.sni for match in chains)
    is_routed = rule is not None and bool(rule.spec.http)
    tells_spoken = context.destinations.tells_spoken(service.hostname, port.number)
    may_be_bytes = is_sniffed and not is_routed and not has_policies
    result = []
    for address in _own_addresses(service, vip):
        made = _freeze(listed)
        if is_sniffed:
            http = _http_chain(
                address,
                port,
                http_table,
                settings,
                is_judged=is_judged,
                tells_spoken=tells_spoken and not is_routed,
            )
            made = (http, *made)
        result.append(
            Contribution(
                address,
                port.number,
                made,
                serialised(rest),
                needs_sni,
                is_sniffed,
                may_be_bytes,
            )
        )

    if service.is_declared:
        result.extend(
            _on_any_address(service, port, vip, listed, rest, default, is_tls=is_tls)
        )
    return result


def _own_addresses(service: Service, vip: str) -> list[str]:
    """The addresses of the service alone, its virtual one first; ranges are not dialled as such."""
    single = (address for address in service.addresses if "/" not in address)
    return [address for address in dict.fromkeys((vip, *single)) if address]


def _http_chain(
    address: str,
    port: Port,
    table: str,
    settings: MeshSettings,
    *,
    is_judged: bool,
    tells_spoken: bool,
) -> Chain:
    manager = connection_manager(
        f"outbound_{address}_{port.number}",
        rds=table,
        is_judged=is_judged,
        tells_spoken=tells_spoken,
        normalization=settings.normalization,
    )
    http = filter_chain(http_filter(manager), application_protocols=SNIFFED_HTTP)
    return Chain(serialised(http.filter_chain_match), serialised(http))


def _on_any_address(
    service: Service,
    port: Port,
    vip: str,
    listed: list[tuple[_Match, Any]],
    rest: Any,
    default: Any,
    *,
    is_tls: bool,
) -> Iterator[Contribution]:
    # A network cannot be the address of a listener: that of all addresses tells its own by their
    # range.
    for address, length in networks(service):
        match = _Match(network=f"{address}/{length}")
        yield Contribution(
            ANY_ADDRESS, port.number, _freeze([(match, _chain(match, default))])
        )

    if service.addresses:
        return
    by_name = [pair for pair in listed if pair[0].sni]

    # By name TLS can be told apart, so what asks for other names is not taken from whoever it was
    # for. Of bytes nothing tells whose they are: with a virtual IP only what is sent there is the
    # service's, and without one the port is.
    if is_tls:
        yield Contribution(ANY_ADDRESS, port.number, _freeze(by_name), needs_sni=True)
    elif not vip:
        yield Contribution(
            ANY_ADDRESS,
            port.number,
            _freeze(listed),
            serialised(rest),
            needs_sni=bool(by_name),
        )


def _routed(
    rule: Resource[VirtualService] | None, port: Port, context: RouteContext
) -> Iterator[tuple[_Match, Any]]:
    """The chains of a VirtualService's rules, the first of a match only."""
    seen: set[_Match] = set()
    if rule is None:
        return

    # Envoy refuses a listener in which two chains match the same; in Istio the first rule counts.
    for match, targets in (
        *_tls_rules(rule, port, context),
        *_tcp_rules(rule, context),
    ):
        if match in seen:
            continue
        seen.add(match)
        proxy = context.destinations.tcp_proxy(targets, rule.namespace, context.port)
        yield match, sound(_chain(match, proxy_filter(proxy)))


def _tls_rules(
    rule: Resource[VirtualService], port: Port, context: RouteContext
) -> Iterator[tuple[_Match, tuple[RouteDestination, ...]]]:
    if port.protocol not in TLS_PROTOCOLS:
        return
    for route in rule.spec.tls:
        for match in route.match:
            if not route.route or not applies(match, rule.namespace, context):
                continue
            for name in match.sni_hosts:
                for network in match.destination_subnets or ("",):
                    yield _Match(_server_name(name), _network(network)), route.route


def _tcp_rules(
    rule: Resource[VirtualService], context: RouteContext
) -> Iterator[tuple[_Match, tuple[RouteDestination, ...]]]:
    for route in rule.spec.tcp:
        if not route.route:
            continue
        if not route.match:
            yield _Match(), route.route

        for match in route.match:
            if not applies(match, rule.namespace, context):
                continue
            for network in match.destination_subnets or ("",):
                yield (
                    _Match("", _network(network), _network(match.source_subnet)),
                    route.route,
                )


def _server_name(name: str) -> str:
    """A server name as Envoy takes it; `*` is none."""
    return "" if name == "*" else name.lower()


def _network(text: str) -> str:
    return text if not text or "/" in text else f"{text}/{128 if ':' in text else 32}"


def _chain(match: _Match, network_filter: listener_components_pb2.Filter) -> Any:
    fields: dict[str, Any] = {}
    if match.sni:
        fields["server_names"] = [match.sni]
    if match.network:
        fields["prefix_ranges"] = [_range(match.network)]
    if match.source:
        fields["source_prefix_ranges"] = [_range(match.source)]
    return filter_chain(network_filter, **fields)


def _range(text: str) -> address_pb2.CidrRange:
    address, _, length = text.partition("/")
    return address_pb2.CidrRange(address_prefix=address, prefix_len=uint32(int(length)))


def http_contribution(address: str, port: int, chain: Any) -> Contribution:
    """What the HTTP services of a port add to its listener together."""
    match = serialised(chain.filter_chain_match)
    return Contribution(
        address, port, (Chain(match, serialised(chain)),), needs_sniffing=True
    )


def _freeze(chains: Iterable[tuple[_Match, Any]]) -> tuple[Chain, ...]:
    return tuple(
        Chain(serialised(body.filter_chain_match), serialised(body))
        for _, body in chains
    )


def listener_body(head: bytes, parts: Iterable[Contribution], rest: bytes) -> bytes:
    """A listener put together from what services add to it; of equal matches the first counts."""
    # Put together from bytes: a repeated field is the fields one after another, and the parts of
    # services that did not change are not serialised again.
    body, seen = [head], set()
    default = b""

    for part in parts:
        default = default or part.rest
        for chain in part.chains:
            if chain.match not in seen:
                seen.add(chain.match)
                body.append(frame(_CHAINS, chain.body))

    if seen:
        body.append(frame(_DEFAULT_CHAIN, default or rest))
    else:
        body.append(frame(_CHAINS, default or rest))

    return b"".join(body)
