"""The HTTP connection manager that every HTTP listener of ours has, and its filters.

The inbound proxy marks its answer with the header `x-dockermesh-unreached` when it could not
connect to its app (`routes.holding` says what follows). The mark never leaves the mesh, and an app
cannot set it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, protocol_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.type.matcher.v3 import string_pb2

from dockermesh.config.api.mesh_config import NormalizationType
from dockermesh.translate.envoy.discovery import ads
from dockermesh.translate.envoy.flow_control import set_windows
from dockermesh.translate.envoy.offered import offer_filters
from dockermesh.translate.envoy.packing import boolean, pack, seconds, uint32

MOST_HEADERS = 1000
"""Envoy's limit is 100."""
OWN_HEADERS = 24
"""So many proxies may add, among them the four that stand for a request's first line in HTTP/2."""
UNREACHED_HEADER = "x-dockermesh-unreached"
FAULT_FILTER = "envoy.filters.http.fault"
CORS_FILTER = "envoy.filters.http.cors"


def connection_manager(
    stat_prefix: str,
    *,
    rds: str = "",
    route_config: route_pb2.RouteConfiguration | None = None,
    is_edge: bool = False,
    is_inbound: bool = False,
    is_judged: bool = True,
    tells_spoken: bool = False,
    normalization: NormalizationType = NormalizationType.DEFAULT,
    security: Iterable[hcm_pb2.HttpFilter] = (),
    replies: Iterable[hcm_pb2.ResponseMapper] = (),
) -> hcm_pb2.HttpConnectionManager:
    """An HTTP connection manager with its routes from RDS (by name) or inline.

    `security` are the filters that decide who may pass; they come before all others, and `replies`
    are texts of what they refuse. `is_judged`: something decides by what a request says, a policy
    or a route; what it could misread is then put in order or refused. All else reaches the app as
    it was sent. `tells_spoken`: all its routes tell what their clients spoke.
    """
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=stat_prefix,
        http_filters=[
            *security,
            *_filters(is_inbound=is_inbound, tells_spoken=tells_spoken),
        ],
        # What goes through a tunnel nobody judges, and an app may take it for more requests. Who
        # sends from within the mesh is past its own proxy already, if it wants to be.
        upgrade_configs=_upgrades(*(() if is_inbound or is_edge else ("CONNECT",))),
        # At the edge a client is whom the connection comes from; inside, whom the gateway says.
        use_remote_address=boolean(is_edge),
        # Else the header `server` of every app would be replaced by `envoy`.
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        # Before anything is matched: `/a/../admin` must not slip past a rule for `/admin`.
        merge_slashes=normalization in _MERGES_SLASHES,
        # Envoy would end every request that is silent for 5 minutes, long polls among them; in
        # Istio a request may take as long as it takes.
        stream_idle_timeout=seconds(0),
        http_protocol_options=_http1(takes_any_method=not is_judged),
    )
    # What a client's proxy has let through its server's does, too, with what both add to it.
    most = MOST_HEADERS + (OWN_HEADERS if is_inbound else 0)
    manager.common_http_protocol_options.max_headers_count.CopyFrom(uint32(most))
    # Where proxies of the mesh come: elsewhere Envoy's own are right, which are narrower.
    if is_inbound:
        set_windows(manager.http2_protocol_options)
    # Left open where nobody judges and the user says nothing, for `put_in_order`.
    if normalization is not NormalizationType.DEFAULT:
        is_normalised = normalization is not NormalizationType.NONE
        manager.normalize_path.CopyFrom(boolean(is_normalised))
    elif is_judged:
        put_in_order(manager)

    if normalization is NormalizationType.DECODE_AND_MERGE_SLASHES:
        # To many apps `%2F` is a slash, so the rules must see it as one.
        manager.path_with_escaped_slashes_action = (
            hcm_pb2.HttpConnectionManager.UNESCAPE_AND_FORWARD
        )

    if is_edge:
        manager.server_name = "dockermesh"
        tell_client(manager, hcm_pb2.HttpConnectionManager.SANITIZE_SET)

    if is_inbound:
        tell_client(manager, hcm_pb2.HttpConnectionManager.APPEND_FORWARD)
        manager.local_reply_config.CopyFrom(_mark_unreached())

    for reply in replies:
        manager.local_reply_config.mappers.append(reply)

    if route_config is not None:
        manager.route_config.CopyFrom(route_config)
    else:
        manager.rds.CopyFrom(hcm_pb2.Rds(config_source=ads(), route_config_name=rds))

    return manager


def tell_client(manager: hcm_pb2.HttpConnectionManager, how: Any) -> None:
    """Tell the app in `x-forwarded-client-cert` who the client is, by its certificate (Istio's
    settings).

    Envoy drops the header of a client without one. At the edge it is always made anew; inside, that
    of another proxy, which the mesh's roots vouch for, is extended.
    """
    manager.forward_client_cert_details = how
    details = manager.set_current_client_cert_details
    details.subject.CopyFrom(boolean(True))
    details.uri = details.dns = True


def put_in_order(manager: hcm_pb2.HttpConnectionManager) -> None:
    """Judge requests after all, also if nothing of ours does: of what something of the user's could
    misread, paths are normalised, unless the user says otherwise, and methods refused.
    """
    if not manager.HasField("normalize_path"):
        manager.normalize_path.CopyFrom(boolean(True))
    manager.http_protocol_options.allow_custom_methods = False


def _upgrades(*more: str) -> list[hcm_pb2.HttpConnectionManager.UpgradeConfig]:
    # Upgrades that are not named here are refused by Envoy.
    return [
        hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type=name)
        for name in (*_UPGRADES, *more)
    ]


def _http1(*, takes_any_method: bool) -> protocol_pb2.Http1ProtocolOptions:
    """HTTP/1 as apps speak it."""
    return protocol_pb2.Http1ProtocolOptions(
        # Envoy answers HTTP/1.0 with 426 unless it is told otherwise, and without a Host with 400.
        # It needs one to speak HTTP/1.1 to the app.
        accept_http_10=True,
        default_host_for_http_10="localhost",
        enable_trailers=True,
        # To some apps `get` is GET, which a policy for GET would not know.
        allow_custom_methods=takes_any_method,
        # These a server may ignore (RFC 9110, section 7.8), and clients offer them to everybody.
        ignore_http_11_upgrade=[
            string_pb2.StringMatcher(prefix=prefix, ignore_case=True)
            for prefix in ("tls/", "http/2")
        ],
    )


_UPGRADES = ("websocket", "tcp", "spdy/3.1", "derp", "tailscale-control-protocol")
"""What a client may turn a connection into. Envoy wants each by its name."""
_MERGES_SLASHES = frozenset(
    {NormalizationType.MERGE_SLASHES, NormalizationType.DECODE_AND_MERGE_SLASHES}
)


def _filters(*, is_inbound: bool, tells_spoken: bool) -> list[hcm_pb2.HttpFilter]:
    """The HTTP filters; those whose settings are on routes do nothing without them."""
    router = hcm_pb2.HttpFilter(
        name="envoy.filters.http.router", typed_config=pack(router_pb2.Router())
    )
    if is_inbound:
        # Faults and CORS are applied by the client's proxy, or by the gateway, never again here.
        return [router]
    return [
        # CORS answers preflights itself, so they meet no fault.
        hcm_pb2.HttpFilter(name=CORS_FILTER, typed_config=pack(cors_pb2.Cors())),
        hcm_pb2.HttpFilter(name=FAULT_FILTER, typed_config=pack(fault_pb2.HTTPFault())),
        *offer_filters(are_told=tells_spoken),
        router,
    ]


def _mark_unreached() -> hcm_pb2.LocalReplyConfig:
    # UF is an upstream that could not be connected to: no answer of the app has this flag.
    flags = accesslog_pb2.AccessLogFilter(
        response_flag_filter=accesslog_pb2.ResponseFlagFilter(flags=["UF"])
    )
    mark = base_pb2.HeaderValueOption(
        header=base_pb2.HeaderValue(key=UNREACHED_HEADER, value="1"),
        append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
    )
    return hcm_pb2.LocalReplyConfig(
        mappers=[hcm_pb2.ResponseMapper(filter=flags, headers_to_add=[mark])]
    )
