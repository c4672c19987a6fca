"""What is spoken to the endpoints of a cluster: HTTP/1.1, HTTP/2, what the client speaks, or bytes.

Source: Istio's DestinationRule reference (`h2UpgradePolicy`, `useClientProtocol`) and its
`pilot/pkg/networking/core/cluster_traffic_policy.go`; Envoy's `HttpProtocolOptions`.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum, auto

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2

from dockermesh.config.api.destination_rule import (
    H2UpgradePolicy,
    HTTPSettings,
    TrafficPolicy,
)
from dockermesh.model import Port
from dockermesh.translate.envoy.packing import pack, seconds, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls import client_tls

_Options = http_protocol_options_pb2.HttpProtocolOptions
OPTIONS_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class _Spoken(Enum):
    """What requests become on their way to an endpoint."""

    AS_CLIENT = auto()
    HTTP1 = auto()
    HTTP2 = auto()


def set_protocol(
    cluster: cluster_pb2.Cluster,
    port: Port,
    policy: TrafficPolicy,
    settings: MeshSettings,
) -> bool:
    """Set what is spoken to the endpoints. Returns whether it is HTTP/2 alone."""
    http = _http_settings(policy)
    options = _Options()
    _set_limits(options, policy, http)
    _take_server_name(options, port, policy, settings)

    spoken = _spoken(port, policy, http, settings)
    if spoken is _Spoken.AS_CLIENT:
        options.use_downstream_protocol_config.http_protocol_options.SetInParent()
        _http2(options.use_downstream_protocol_config.http2_protocol_options, http)
    elif spoken is _Spoken.HTTP2:
        _http2(options.explicit_http_config.http2_protocol_options, http)
    # Envoy takes no options that leave the protocol open.
    elif options.ListFields() or _is_tunnelled(port, policy):
        options.explicit_http_config.http_protocol_options.SetInParent()
    else:
        # HTTP/1.1 without any setting is what a cluster speaks anyway.
        return False

    cluster.typed_extension_protocol_options[OPTIONS_KEY].CopyFrom(pack(options))
    return spoken is _Spoken.HTTP2


def http2_options() -> any_pb2.Any:
    """The options of a cluster that speaks HTTP/2 alone."""
    options = _Options()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    return pack(options)


def downstream_protocol_options() -> any_pb2.Any:
    """The options of a cluster that speaks what its client does."""
    options = _Options()
    options.use_downstream_protocol_config.http_protocol_options.SetInParent()
    options.use_downstream_protocol_config.http2_protocol_options.SetInParent()
    return pack(options)


def _spoken(
    port: Port, policy: TrafficPolicy, http: HTTPSettings, settings: MeshSettings
) -> _Spoken:
    if _is_tunnelled(port, policy):
        return _Spoken.HTTP1

    # A sniffed port carries what its clients speak.
    if not port.protocol.is_http or http.use_client_protocol:
        return _Spoken.AS_CLIENT
    is_http2 = port.protocol.is_http2 or _is_upgraded(http, settings)
    return _Spoken.HTTP2 if is_http2 else _Spoken.HTTP1


def _is_tunnelled(port: Port, policy: TrafficPolicy) -> bool:
    # CONNECT is asked for over HTTP/1.1.
    return policy.tunnel is not None and not port.protocol.is_http


def _is_upgraded(http: HTTPSettings, settings: MeshSettings) -> bool:
    if http.h2_upgrade_policy is H2UpgradePolicy.DEFAULT:
        return settings.h2_upgrade
    return http.h2_upgrade_policy is H2UpgradePolicy.UPGRADE


def _http_settings(policy: TrafficPolicy) -> HTTPSettings:
    http = policy.connection_pool.http if policy.connection_pool is not None else None
    return http or HTTPSettings()


def _idle_timeout(policy: TrafficPolicy, http: HTTPSettings) -> timedelta | None:
    """HTTP's own, else that of TCP, which Istio lets count for both."""
    tcp = policy.connection_pool.tcp if policy.connection_pool is not None else None
    return http.idle_timeout or (tcp.idle_timeout if tcp is not None else None)


def _set_limits(
    options: http_protocol_options_pb2.HttpProtocolOptions,
    policy: TrafficPolicy,
    http: HTTPSettings,
) -> None:
    idle = _idle_timeout(policy, http)
    if idle is not None:
        timeout = options.common_http_protocol_options.idle_timeout
        timeout.CopyFrom(seconds(idle.total_seconds()))
    if http.max_requests_per_connection > 0:
        most = options.common_http_protocol_options.max_requests_per_connection
        most.CopyFrom(uint32(http.max_requests_per_connection))


def _take_server_name(
    options: http_protocol_options_pb2.HttpProtocolOptions,
    port: Port,
    policy: TrafficPolicy,
    settings: MeshSettings,
) -> None:
    """Where the rule names no server, each request's Host is the name that TLS asks for."""
    tls = policy.tls
    if not client_tls.originates(tls):
        return

    if client_tls.takes_server_name_from_request(tls, port):
        has_roots = client_tls.trusted_roots(tls, verify=settings.verify_certificates)
        # The certificate is then checked against that name, too, if it is checked at all.
        options.upstream_http_protocol_options.auto_sni = True
        options.upstream_http_protocol_options.auto_san_validation = bool(has_roots)


def _http2(options: protocol_pb2.Http2ProtocolOptions, http: HTTPSettings) -> None:
    options.SetInParent()
    if http.max_concurrent_streams > 0:
        options.max_concurrent_streams.CopyFrom(uint32(http.max_concurrent_streams))
    keep_alive = http.http2_keep_alive
    if keep_alive is not None and keep_alive.interval is not None:
        options.connection_keepalive.interval.CopyFrom(
            seconds(keep_alive.interval.total_seconds())
        )
        # Envoy asks for a time-out; Istio lets it be left out.
        timeout = (
            keep_alive.timeout.total_seconds() if keep_alive.timeout is not None else 5
        )
        options.connection_keepalive.timeout.CopyFrom(seconds(timeout))
