"""What is spoken to the endpoints of a cluster: HTTP/1.1, HTTP/2, what the client speaks, or bytes.

Source: Istio's DestinationRule reference (`h2UpgradePolicy`, `useClientProtocol`) and its
`pilot/pkg/networking/core/cluster_traffic_policy.go`; Envoy's `HttpProtocolOptions`.
"""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import protocol_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import any_pb2

from dockermesh.config.api.destination_rule import (
    ConnectionPoolSettings,
    H2UpgradePolicy,
    HTTPSettings,
    TCPSettings,
    TrafficPolicy,
)
from dockermesh.model import Port, Protocol
from dockermesh.translate.envoy.connection_manager import MOST_HEADERS, OWN_HEADERS
from dockermesh.translate.envoy.flow_control import MOST_STREAMS, set_windows
from dockermesh.translate.envoy.offered import Spoken
from dockermesh.translate.envoy.packing import pack, seconds, uint32
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls import client_tls

_Options = http_protocol_options_pb2.HttpProtocolOptions
_APP_IDLE_S = 1.0
_LARGEST_ANSWER_KB = 128
"""Of headers: Envoy takes some 80 in HTTP/1, however it is told, and 60 in HTTP/2 unless told."""
OPTIONS_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def set_protocol(
    cluster: cluster_pb2.Cluster,
    port: Port,
    policy: TrafficPolicy,
    settings: MeshSettings,
    *,
    is_mesh_alone: bool,
) -> Spoken:
    """Set what is spoken to the endpoints. Returns what that is. `is_mesh_alone`: every endpoint is
    called over the mesh's own mutual TLS.
    """
    http = _http_settings(policy)
    options = _options()
    _set_limits(options, policy.connection_pool, http)
    _take_server_name(options, port, policy, settings)

    spoken = _spoken(port, policy, http, settings, is_mesh_alone=is_mesh_alone)
    if spoken is Spoken.AS_CLIENT:
        _as_client(options, http)
    elif spoken is Spoken.NEGOTIATED:
        _widen(options.common_http_protocol_options)
        _http1(options.auto_config.http_protocol_options)
        _http2(options.auto_config.http2_protocol_options, http)
    elif spoken is Spoken.HTTP2:
        _http2(options.explicit_http_config.http2_protocol_options, http)
    else:
        _http1(options.explicit_http_config.http_protocol_options)

    cluster.typed_extension_protocol_options[OPTIONS_KEY].CopyFrom(pack(options))
    return spoken


def set_inbound_protocol(
    cluster: cluster_pb2.Cluster,
    pool: ConnectionPoolSettings | None,
    *,
    spoken: Spoken,
) -> None:
    """Set what is spoken to the proxy's own app.

    Apps close connections that they have not used for a while, some after 2 s. A request that is
    on its way at that moment is lost, so ours are closed before, unless the user says otherwise.
    """
    http = pool.http if pool is not None and pool.http is not None else HTTPSettings()
    options = _options()
    options.common_http_protocol_options.idle_timeout.CopyFrom(seconds(_APP_IDLE_S))
    _set_limits(options, pool, http)

    # Between proxies it may have been HTTP/2: the app is spoken to as it was without the mesh.
    if http.use_client_protocol or spoken is Spoken.AS_CLIENT:
        _as_client(options, http)
    elif spoken is Spoken.HTTP2:
        _http2(options.explicit_http_config.http2_protocol_options, http)
    else:
        _http1(options.explicit_http_config.http_protocol_options)

    cluster.typed_extension_protocol_options[OPTIONS_KEY].CopyFrom(pack(options))


def downstream_protocol_options() -> any_pb2.Any:
    """The options of a cluster that speaks what its client does."""
    options = _options()
    _as_client(options, HTTPSettings())
    return pack(options)


def http2_options() -> any_pb2.Any:
    """The options of a cluster that speaks HTTP/2 alone, and notices when nobody answers."""
    options = _options()
    http2 = options.explicit_http_config.http2_protocol_options
    http2.connection_keepalive.interval.CopyFrom(seconds(10))
    http2.connection_keepalive.timeout.CopyFrom(seconds(2))
    return pack(options)


def _spoken(
    port: Port,
    policy: TrafficPolicy,
    http: HTTPSettings,
    settings: MeshSettings,
    *,
    is_mesh_alone: bool,
) -> Spoken:
    if _is_tunnelled(port, policy):
        return Spoken.HTTP1
    if port.protocol.is_http2 and not http.use_client_protocol:
        return Spoken.HTTP2

    wish = _wish(http, settings)
    # Both ends are the mesh's own, and each app is spoken to as it speaks itself.
    is_carried = port.protocol.is_http or port.protocol is Protocol.AUTO
    if is_carried and is_mesh_alone and _may_negotiate(policy, http, wish):
        return Spoken.NEGOTIATED

    # A sniffed port carries what its clients speak.
    if not port.protocol.is_http or http.use_client_protocol:
        return Spoken.AS_CLIENT
    return Spoken.HTTP2 if wish is H2UpgradePolicy.UPGRADE else Spoken.HTTP1


def _may_negotiate(
    policy: TrafficPolicy, http: HTTPSettings, wish: H2UpgradePolicy
) -> bool:
    if http.use_client_protocol or wish is H2UpgradePolicy.DO_NOT_UPGRADE:
        return False
    if wish is H2UpgradePolicy.UPGRADE:
        return True

    # Who limits connections, or requests that wait for one, means that a connection is a request;
    # and to a server that is told of the client each client has a connection of its own.
    tcp = policy.connection_pool.tcp if policy.connection_pool is not None else None
    is_limited = (
        tcp is not None and tcp.max_connections > 0
    ) or http.http1_max_pending_requests > 0
    return not is_limited and policy.proxy_protocol is None


def _is_tunnelled(port: Port, policy: TrafficPolicy) -> bool:
    # CONNECT is asked for over HTTP/1.1.
    return policy.tunnel is not None and not port.protocol.is_http


def _wish(http: HTTPSettings, settings: MeshSettings) -> H2UpgradePolicy:
    if http.h2_upgrade_policy is H2UpgradePolicy.DEFAULT:
        return settings.h2_upgrade
    return http.h2_upgrade_policy


def _http_settings(policy: TrafficPolicy) -> HTTPSettings:
    http = policy.connection_pool.http if policy.connection_pool is not None else None
    return http or HTTPSettings()


def _options() -> http_protocol_options_pb2.HttpProtocolOptions:
    options = _Options()
    most = options.common_http_protocol_options.max_headers_count
    most.CopyFrom(uint32(MOST_HEADERS))
    return options


def _widen(common: protocol_pb2.HttpProtocolOptions) -> None:
    """Take all answers that the server's proxy has taken from its app, whatever carries them."""
    common.max_headers_count.CopyFrom(uint32(MOST_HEADERS + OWN_HEADERS))
    common.max_response_headers_kb.CopyFrom(uint32(_LARGEST_ANSWER_KB))


def _http1(options: protocol_pb2.Http1ProtocolOptions) -> None:
    options.enable_trailers = True


def _as_client(
    options: http_protocol_options_pb2.HttpProtocolOptions, http: HTTPSettings
) -> None:
    _http1(options.use_downstream_protocol_config.http_protocol_options)
    _http2(options.use_downstream_protocol_config.http2_protocol_options, http)


def _set_limits(
    options: http_protocol_options_pb2.HttpProtocolOptions,
    pool: ConnectionPoolSettings | None,
    http: HTTPSettings,
) -> None:
    tcp = pool.tcp if pool is not None and pool.tcp is not None else TCPSettings()
    common = options.common_http_protocol_options

    # HTTP's own, else that of TCP, which Istio lets count for both.
    idle = http.idle_timeout or tcp.idle_timeout
    if idle is not None:
        common.idle_timeout.CopyFrom(seconds(idle.total_seconds()))
    if tcp.max_connection_duration is not None:
        longest = tcp.max_connection_duration.total_seconds()
        common.max_connection_duration.CopyFrom(seconds(longest))
    if http.max_requests_per_connection > 0:
        common.max_requests_per_connection.CopyFrom(
            uint32(http.max_requests_per_connection)
        )


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
    set_windows(options)
    most = http.max_concurrent_streams or MOST_STREAMS
    options.max_concurrent_streams.CopyFrom(uint32(most))
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
