"""The listener on 15006, where all connections to a pod arrive: filter chains by port, mode and
protocol.

What a port accepts is decided by its own chains alone: a connection that none of them matches is
closed, and never falls through to the chain for ports that nobody declared. The chains of a mode
are those of Istio's `pilot/pkg/networking/core/filterchain_options.go`, but for undeclared ports in
PERMISSIVE mode: no proxy calls them over TLS, so they are not inspected, for that would hold up
protocols in which the server speaks first. Only where policies judge requests and the workload
declares no port at all is HTTP looked for on any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.type.v3 import range_pb2

from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.model import INBOUND_PORT, Protocol
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.connection_manager import connection_manager
from dockermesh.translate.envoy.listeners import (
    HTTP_INSPECTOR,
    ORIGINAL_DST,
    SNIFFED_HTTP,
    TLS_INSPECTOR,
    filter_chain,
    http_filter,
    sniff,
    tcp_filter,
)
from dockermesh.translate.envoy.packing import boolean, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.routes.tables import inbound_table
from dockermesh.translate.security.policies import SecurityFilters, security_filters
from dockermesh.translate.sidecar.inbound import Inbound, Served
from dockermesh.translate.tls import mesh_tls, server_tls

_Predicate = listener_components_pb2.ListenerFilterChainMatchPredicate
_TLS, _PLAIN = "tls", "raw_buffer"


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which connections a chain takes, and what it does with them."""

    is_http: bool = False
    transport: str = ""
    protocols: tuple[str, ...] = ()
    is_mesh: bool = False


# Under PERMISSIVE nothing but the protocol that a client offers tells a proxy's TLS from TLS that
# the app speaks itself. STRICT asks for no protocol: the certificate decides.
_HTTP: Mapping[MutualTlsMode, tuple[_Kind, ...]] = {
    MutualTlsMode.DISABLE: (_Kind(is_http=True, transport=_PLAIN),),
    MutualTlsMode.PERMISSIVE: (
        _Kind(is_http=True, transport=_TLS, protocols=mesh_tls.PROTOCOLS, is_mesh=True),
        _Kind(is_http=True, transport=_PLAIN),
    ),
    MutualTlsMode.STRICT: (_Kind(is_http=True, transport=_TLS, is_mesh=True),),
}
# The third chain is for apps with TLS of their own, which arrives at them as it was sent.
_TCP: Mapping[MutualTlsMode, tuple[_Kind, ...]] = {
    MutualTlsMode.DISABLE: (_Kind(transport=_PLAIN),),
    MutualTlsMode.PERMISSIVE: (
        _Kind(transport=_TLS, protocols=mesh_tls.PROTOCOLS, is_mesh=True),
        _Kind(transport=_PLAIN),
        _Kind(transport=_TLS),
    ),
    MutualTlsMode.STRICT: (_Kind(transport=_TLS, is_mesh=True),),
}
# Inside TLS no inspector sees whether requests or bytes follow: only the protocol offered tells.
# Meshed clients offer one of HTTP_PROTOCOLS for requests (see `mesh_tls.set_client`).
_SNIFFED: Mapping[MutualTlsMode, tuple[_Kind, ...]] = {
    MutualTlsMode.DISABLE: (
        _Kind(is_http=True, transport=_PLAIN, protocols=SNIFFED_HTTP),
        _Kind(transport=_PLAIN),
    ),
    MutualTlsMode.PERMISSIVE: (
        _Kind(
            is_http=True,
            transport=_TLS,
            protocols=mesh_tls.HTTP_PROTOCOLS,
            is_mesh=True,
        ),
        _Kind(is_http=True, transport=_PLAIN, protocols=SNIFFED_HTTP),
        _Kind(
            transport=_TLS,
            protocols=(mesh_tls.ISTIO, "istio-peer-exchange"),
            is_mesh=True,
        ),
        _Kind(transport=_PLAIN),
        _Kind(transport=_TLS),
    ),
    MutualTlsMode.STRICT: (
        _Kind(
            is_http=True,
            transport=_TLS,
            protocols=mesh_tls.HTTP_PROTOCOLS,
            is_mesh=True,
        ),
        _Kind(transport=_TLS, is_mesh=True),
    ),
}


def inbound_listener(inbound: Inbound, settings: MeshSettings) -> listener_pb2.Listener:
    """`virtualInbound`: declared ports by their protocol, all other ports to the app as they
    are.
    """
    security = security_filters(inbound.policies, settings)
    # A connection to 15006 itself would be forwarded to itself for ever.
    trap = filter_chain(
        tcp_filter(names.BLACK_HOLE_CLUSTER),
        name="virtualInbound-blackhole",
        destination_port=uint32(INBOUND_PORT),
    )
    chains = [trap]
    for served in inbound.served:
        chains.extend(
            _served(served, inbound.modes.of(served.port.number), settings, security)
        )
    # A mode for a port that nobody declared still holds there: without a chain of its own the port
    # would have the mode of all others.
    declared = {served.port.number for served in inbound.served}
    chains.extend(
        chain
        for port, mode in inbound.modes.ports
        if port not in declared
        for chain in _undeclared(
            _TCP[mode], settings, security, destination_port=uint32(port)
        )
    )
    # An ordinary chain, not the default one: what a declared port's own chains refuse must not fall
    # through to it.
    chains.extend(_undeclared(_on_any_port(inbound, security), settings, security))
    listener = listener_pb2.Listener(
        name=names.VIRTUAL_INBOUND,
        address=socket_address("0.0.0.0", INBOUND_PORT),
        # The filter below restores the address that was dialled, and chains match on its port. With
        # this flag Envoy would look for another listener at that address.
        use_original_dst=boolean(False),
        traffic_direction="INBOUND",
        listener_filters=[ORIGINAL_DST],
        filter_chains=chains,
    )
    _inspect(listener, settings)

    return listener


def _served(
    served: Served,
    mode: MutualTlsMode,
    settings: MeshSettings,
    security: SecurityFilters,
) -> Iterable[Any]:
    """The chains of a port that the app serves."""
    port = served.port
    listed = _kinds(served)[mode]
    name, number = names.listener("0.0.0.0", port.number), uint32(port.number)
    app = names.inbound_cluster(port.number)
    own = (
        server_tls.transport_socket(served.tls, is_http=served.is_http)
        if served.tls is not None
        else None
    )

    # STRICT lets nobody in but proxies, whatever certificate the Sidecar names.
    if own is not None and mode is not MutualTlsMode.STRICT:
        listed = tuple(k for k in listed if _may_stand_beside_tls(k, mode))
        kind = _Kind(served.is_http, _TLS)
        chain = _chain(
            kind,
            _to_app(port.number, app, kind, settings, security),
            name,
            destination_port=number,
        )
        chain.transport_socket.CopyFrom(own)
        yield chain

    for kind in listed:
        chain = _chain(
            kind,
            _to_app(port.number, app, kind, settings, security),
            name,
            destination_port=number,
        )
        yield _secured(kind, chain, settings)


def _kinds(served: Served) -> Mapping[MutualTlsMode, tuple[_Kind, ...]]:
    if served.port.protocol is Protocol.AUTO:
        return _SNIFFED
    return _HTTP if served.is_http else _TCP


def _may_stand_beside_tls(kind: _Kind, mode: MutualTlsMode) -> bool:
    """Whether a chain stays where the proxy terminates TLS of the user's."""
    # Another chain for TLS would have the same match as that of the user's, which Envoy refuses.
    # Under DISABLE plaintext goes, too: the user's TLS is then all that the port takes.
    return kind.is_mesh or (
        kind.transport == _PLAIN and mode is MutualTlsMode.PERMISSIVE
    )


def _to_app(
    number: int,
    cluster: str,
    kind: _Kind,
    settings: MeshSettings,
    security: SecurityFilters,
) -> tuple[Any, ...]:
    """The filters that check connections and hand them to the app; 0 is any port."""
    if not kind.is_http:
        return (*security.network, tcp_filter(cluster))
    http = http_filter(
        connection_manager(
            f"inbound_0.0.0.0_{number}",
            route_config=inbound_table(number, cluster),
            is_inbound=True,
            normalization=settings.normalization,
            security=security.http,
        )
    )
    return (http,)


def _on_any_port(inbound: Inbound, security: SecurityFilters) -> tuple[_Kind, ...]:
    """What is told apart on ports that nobody declared.

    HTTP is where rules for requests would else hold nowhere, as the workload declares no port at
    all.
    """
    is_strict = inbound.modes.default is MutualTlsMode.STRICT
    if security.http and not inbound.served:
        return _SNIFFED[MutualTlsMode.STRICT if is_strict else MutualTlsMode.DISABLE]
    return _TCP[MutualTlsMode.STRICT] if is_strict else (_Kind(),)


def _undeclared(
    kinds: Iterable[_Kind],
    settings: MeshSettings,
    security: SecurityFilters,
    **match: Any,
) -> Iterable[Any]:
    for kind in kinds:
        filters = _to_app(
            0, names.INBOUND_PASSTHROUGH_CLUSTER, kind, settings, security
        )
        name = (
            f"{names.VIRTUAL_INBOUND}-catchall-http"
            if kind.is_http
            else names.VIRTUAL_INBOUND
        )
        yield _secured(kind, _chain(kind, filters, name, **match), settings)


def _chain(kind: _Kind, filters: Iterable[Any], name: str, **match: Any) -> Any:
    if kind.transport:
        match["transport_protocol"] = kind.transport
    if kind.protocols:
        match["application_protocols"] = kind.protocols
    return filter_chain(*filters, name=name, **match)


def _secured(kind: _Kind, chain: Any, settings: MeshSettings) -> Any:
    if kind.is_mesh:
        chain.transport_socket.CopyFrom(
            mesh_tls.server_socket(settings, is_http=kind.is_http)
        )
    return chain


def _inspect(listener: listener_pb2.Listener, settings: MeshSettings) -> None:
    """Look at the first bytes of connections on the ports where a chain asks for what they tell,
    and on no other.
    """
    matches = [chain.filter_chain_match for chain in listener.filter_chains]
    ports = _ports(matches)
    # Where nobody looks, every connection counts as `raw_buffer`: under DISABLE an app's own TLS
    # reaches it as bytes.
    for_tls = _ports(m for m in matches if m.transport_protocol == _TLS)
    for_http = _ports(m for m in matches if _is_sniffed(m))

    # TLS first: the inspector of HTTP leaves alone what is known to be TLS.
    for inspector, wanted in ((TLS_INSPECTOR, for_tls), (HTTP_INSPECTOR, for_http)):
        if wanted:
            made = listener.listener_filters.add()
            made.CopyFrom(inspector)
            _limit(made, ports, wanted)

    if for_tls or for_http:
        sniff(listener, settings.detection_timeout)


def _is_sniffed(match: Any) -> bool:
    return bool(match.transport_protocol == _PLAIN and match.application_protocols)


def _ports(matches: Iterable[Any]) -> set[int]:
    return {match.destination_port.value for match in matches}


def _limit(made: Any, ports: set[int], wanted: set[int]) -> None:
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
