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
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from google.protobuf import any_pb2

from dockermesh.config.api.mesh_config import NormalizationType
from dockermesh.translate.envoy.discovery import ads
from dockermesh.translate.envoy.packing import boolean, pack, seconds

UNREACHED_HEADER = "x-dockermesh-unreached"
FAULT_FILTER = "envoy.filters.http.fault"
CORS_FILTER = "envoy.filters.http.cors"
REQUEST_PROTOCOL = ("dockermesh", "request_protocol")
"""Namespace and key of a cluster's metadata: the protocol to offer under TLS for requests, other
than for bytes.
"""


def connection_manager(
    stat_prefix: str,
    *,
    rds: str = "",
    route_config: route_pb2.RouteConfiguration | None = None,
    is_edge: bool = False,
    is_inbound: bool = False,
    normalization: NormalizationType = NormalizationType.BASE,
    security: Iterable[hcm_pb2.HttpFilter] = (),
) -> hcm_pb2.HttpConnectionManager:
    """An HTTP connection manager with its routes from RDS (by name) or inline.

    `security` are the filters that decide who may pass; they come before all others.
    """
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=stat_prefix,
        http_filters=[*security, *_filters(is_inbound=is_inbound)],
        # Upgrades that are not named here are refused by Envoy.
        upgrade_configs=[
            hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")
        ],
        # At the edge a client is whom the connection comes from; inside, whom the gateway says.
        use_remote_address=boolean(is_edge),
        # Else the header `server` of every app would be replaced by `envoy`.
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        # Before anything is matched: `/a/../admin` must not slip past a rule for `/admin`.
        normalize_path=boolean(normalization is not NormalizationType.NONE),
        merge_slashes=normalization in _MERGES_SLASHES,
        # Envoy would end every request that is silent for 5 minutes, long polls among them; in
        # Istio a request may take as long as it takes.
        stream_idle_timeout=seconds(0),
        # Envoy answers HTTP/1.0 with 426 unless it is told otherwise.
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(accept_http_10=True),
    )
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


_MERGES_SLASHES = frozenset(
    {NormalizationType.MERGE_SLASHES, NormalizationType.DECODE_AND_MERGE_SLASHES}
)


def _filters(*, is_inbound: bool) -> list[hcm_pb2.HttpFilter]:
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
        hcm_pb2.HttpFilter(
            name="envoy.filters.http.set_filter_state", typed_config=_offered_protocol()
        ),
        router,
    ]


def _offered_protocol() -> any_pb2.Any:
    """Offer the protocol that the cluster's metadata names, if any.

    A cluster of an undeclared port carries requests and bytes alike, and a server's proxy tells
    them apart under TLS by nothing but the protocol that was offered. Istio has a filter of its own
    for this (`istio.alpn`), which Envoy lacks.
    """
    value = value_pb2.FilterStateValue(
        object_key="envoy.network.application_protocols", skip_if_empty=True
    )
    value.format_string.text_format_source.inline_string = (
        "%METADATA(CLUSTER:{}:{})%".format(*REQUEST_PROTOCOL)
    )
    # Else what is not there would be offered as `-`.
    value.format_string.omit_empty_values = True

    return pack(set_filter_state_pb2.Config(on_request_headers=[value]))


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
