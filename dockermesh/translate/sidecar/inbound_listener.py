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

from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2

from dockermesh.config.api.peer_authentication import MutualTlsMode
from dockermesh.model import INBOUND_PORT, Protocol
from dockermesh.translate.clusters.circuit_breaking import limit_connection
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.connection_manager import connection_manager
from dockermesh.translate.envoy.listeners import (
    CONNECT_ATTEMPTS,
    HTTP_INSPECTOR,
    ORIGINAL_DST,
    SNIFFED_HTTP,
    TLS_INSPECTOR,
    filter_chain,
    http_filter,
    inspect_only,
    proxy_filter,
    sniff,
    tcp_filter,
)
from dockermesh.translate.envoy.offered import HTTP1, SPOKEN_HTTP1, Spoken
from dockermesh.translate.envoy.packing import boolean, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.routes.holding import hold_for_own_app
from dockermesh.translate.routes.tables import inbound_table
from dockermesh.translate.security.limit_filters import limited
from dockermesh.translate.security.policies import SecurityFilters, security_filters
from dockermesh.translate.sidecar.inbound import Inbound, Served, app_cluster
from dockermesh.translate.tls import mesh_tls, server_tls
from dockermesh.translate.tls.secrets import WORKLOAD_CERTIFICATE

_TLS, _PLAIN = "tls", "raw_buffer"
_ANY_PORT = 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """Which connections a chain takes, and what it does with them. `is_http1`: what carries the
    requests is negotiated, and their clients spoke HTTP/1.
    """

    is_http: bool = False
    transport: str = ""
    protocols: tuple[str, ...] = ()
    is_mesh: bool = False
    is_http1: bool = False


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
# Meshed clients offer one of HTTP_PROTOCOLS for requests (see `mesh_tls.set_client`), and before
# that what their own clients spoke.
_SPOKEN_HTTP1 = _Kind(
    is_http=True,
    transport=_TLS,
    protocols=SPOKEN_HTTP1,
    is_mesh=True,
    is_http1=True,
)
_SNIFFED: Mapping[MutualTlsMode, tuple[_Kind, ...]] = {
    MutualTlsMode.DISABLE: (
        _Kind(is_http=True, transport=_PLAIN, protocols=SNIFFED_HTTP),
        _Kind(transport=_PLAIN),
    ),
    MutualTlsMode.PERMISSIVE: (
        _SPOKEN_HTTP1,
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
        _SPOKEN_HTTP1,
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
        number = served.port.number
        filters = limited(security, inbound.limits, number)
        chains.extend(_served(served, inbound, settings, filters))
    # A mode for a port that nobody declared still holds there: without a chain of its own the port
    # would have the mode of all others.
    declared = {served.port.number for served in inbound.served}
    chains.extend(
        chain
        for port, mode in inbound.modes.ports
        if port not in declared
        for chain in _undeclared(
            _TCP[mode],
            inbound,
            settings,
            limited(security, inbound.limits, port),
            destination_port=uint32(port),
        )
    )
    # An ordinary chain, not the default one: what a declared port's own chains refuse must not fall
    # through to it.
    on_others = limited(security, inbound.limits, _ANY_PORT)
    kinds = _on_any_port(inbound, on_others)
    chains.extend(_undeclared(kinds, inbound, settings, on_others))
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
    inbound: Inbound,
    settings: MeshSettings,
    security: SecurityFilters,
) -> Iterable[Any]:
    """The chains of a port that the app serves."""
    port = served.port
    mode = inbound.modes.of(port.number)
    listed = _kinds(served)[mode]
    name, number = names.listener("0.0.0.0", port.number), uint32(port.number)
    app = app_cluster(served, at_node=inbound.at_node).name
    app_of_http1 = (
        app_cluster(served, at_node=inbound.at_node, spoken=Spoken.HTTP1).name
        if served.port.protocol is Protocol.AUTO
        else app
    )
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
            _to_app(served, app, kind, settings, security),
            name,
            destination_port=number,
        )
        chain.transport_socket.CopyFrom(own)
        yield chain

    for kind in listed:
        cluster = app_of_http1 if kind.is_http1 else app
        chain = _chain(
            kind,
            _to_app(served, cluster, kind, settings, security),
            name,
            destination_port=number,
        )
        yield _secured(kind, chain, inbound, settings)


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
    served: Served | None,
    cluster: str,
    kind: _Kind,
    settings: MeshSettings,
    security: SecurityFilters,
) -> tuple[Any, ...]:
    """The filters that check connections and hand them to the app; None is any port."""
    if not kind.is_http:
        to_app = _tcp_to_app(served, cluster, settings)
        return (*security.connections, *security.network, to_app)
    number = served.port.number if served is not None else 0
    http = http_filter(
        connection_manager(
            f"inbound_0.0.0.0_{number}",
            route_config=inbound_table(number, cluster, settings),
            is_inbound=True,
            is_judged=bool(security.http),
            normalization=settings.normalization,
            security=security.http,
            replies=security.replies,
        )
    )
    return (*security.connections, http)


def _tcp_to_app(served: Served | None, cluster: str, settings: MeshSettings) -> Any:
    # On a port that nobody declared nobody may ever listen: that is said at once.
    if served is None:
        return tcp_filter(cluster)

    proxy = tcp_proxy_pb2.TcpProxy(
        stat_prefix=cluster,
        cluster=cluster,
        max_connect_attempts=uint32(CONNECT_ATTEMPTS),
    )
    hold_for_own_app(proxy, settings.hold_attempts)
    limit_connection(proxy, served.pool)
    return proxy_filter(proxy)


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
    inbound: Inbound,
    settings: MeshSettings,
    security: SecurityFilters,
    **match: Any,
) -> Iterable[Any]:
    for kind in kinds:
        filters = _to_app(
            None, names.INBOUND_PASSTHROUGH_CLUSTER, kind, settings, security
        )
        name = (
            f"{names.VIRTUAL_INBOUND}-catchall-http"
            if kind.is_http
            else names.VIRTUAL_INBOUND
        )
        chain = _chain(kind, filters, name, **match)
        # What carries requests is what the app is spoken to in: nothing else is known of it.
        yield _secured(kind, chain, inbound, settings, may_negotiate=not kind.is_http1)


def _chain(kind: _Kind, filters: Iterable[Any], name: str, **match: Any) -> Any:
    if kind.transport:
        match["transport_protocol"] = kind.transport
    if kind.protocols:
        match["application_protocols"] = kind.protocols
    return filter_chain(*filters, name=name, **match)


def _secured(
    kind: _Kind,
    chain: Any,
    inbound: Inbound,
    settings: MeshSettings,
    *,
    may_negotiate: bool = True,
) -> Any:
    if kind.is_mesh:
        both = mesh_tls.BOTH_HTTP if may_negotiate else (HTTP1,)
        chain.transport_socket.CopyFrom(
            mesh_tls.server_socket(
                settings,
                protocols=both if kind.is_http else (),
                certificate=inbound.identity or WORKLOAD_CERTIFICATE,
            )
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
            inspect_only(made, ports, wanted)

    if for_tls or for_http:
        sniff(listener, settings.detection_timeout)


def _is_sniffed(match: Any) -> bool:
    return bool(match.transport_protocol == _PLAIN and match.application_protocols)


def _ports(matches: Iterable[Any]) -> set[int]:
    return {match.destination_port.value for match in matches}
