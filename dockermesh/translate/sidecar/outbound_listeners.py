"""Outbound listeners of sidecars: where an app's own connections arrive.

Captured connections come in at `virtualOutbound` (15001) and are handed to the listener of their
original destination, which is never bound: `0.0.0.0_9080` for HTTP (one route table for all
services on the port), the service's virtual IP for TCP. What no listener claims goes where the app
wanted it.
"""

from __future__ import annotations

from typing import Any

from envoy.config.listener.v3 import listener_pb2

from dockermesh.model import OUTBOUND_PORT, Port, Service
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.addresses import socket_address
from dockermesh.translate.envoy.connection_manager import connection_manager
from dockermesh.translate.envoy.dialled import look_up_by_call
from dockermesh.translate.envoy.listeners import (
    HTTP_INSPECTOR,
    SNIFF_TIMEOUT_S,
    SNIFFED_HTTP,
    TLS_INSPECTOR,
    filter_chain,
    http_filter,
    sniff,
    tcp_filter,
)
from dockermesh.translate.envoy.packing import boolean, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.sidecar.undeclared import lead_requests, undeclared_chain


def virtual_outbound(
    *, allow_any: bool, allow_undeclared: bool
) -> listener_pb2.Listener:
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
            # What no service declares is to be had where anything is.
            *([undeclared_chain()] if allow_undeclared else []),
            filter_chain(tcp_filter(unknown), name="virtualOutbound-catchall-tcp"),
        ],
    )


def http_port_chain(
    port: int,
    table: str,
    settings: MeshSettings,
    *,
    is_judged: bool,
    allow_undeclared: bool,
) -> Any:
    """The chain for HTTP to any address on this port; what is not HTTP is left to other chains, as
    in Istio. `is_judged`: a route of the port's table decides by what a request says.
    """
    manager = connection_manager(
        f"outbound_0.0.0.0_{port}",
        rds=table,
        is_judged=is_judged,
        normalization=settings.normalization,
    )
    look_up_by_call(manager)
    if allow_undeclared:
        lead_requests(manager)
    # Clients of HTTPS offer `http/1.1` inside TLS, by ALPN: without the transport they would match,
    # and their handshake would be read as a request.
    return filter_chain(
        http_filter(manager),
        transport_protocol="raw_buffer",
        application_protocols=SNIFFED_HTTP,
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
    # Without need no byte is waited for: in MySQL and SMTP the server speaks first.
    if needs_sni or needs_sniffing:
        listener.listener_filters.append(TLS_INSPECTOR)
        # Second: it leaves alone what the first one found to be TLS.
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
