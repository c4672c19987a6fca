"""The HTTP connection manager and the retry rules that every HTTP listener of ours shares.

A request that no app has seen is safe to send again. The inbound proxy marks its answer with the
header `x-dockermesh-unreached` when it could not connect to its app; the outbound proxy and the
gateway then try another replica, or the same one until it is back. The mark never leaves the mesh,
and an app cannot set it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, config_source_pb2, protocol_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.cors.v3 import cors_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2

from dockermesh.config.api.mesh_config import NormalizationType
from dockermesh.translate.constraints import LONGEST_S

UNREACHED_HEADER = "x-dockermesh-unreached"
FAULT_FILTER = "envoy.filters.http.fault"
CORS_FILTER = "envoy.filters.http.cors"
REQUEST_PROTOCOL = ("dockermesh", "request_protocol")
"""Namespace and key of a cluster's metadata: the protocol to offer under TLS for requests, other
than for bytes.
"""


def pack(message: Any) -> any_pb2.Any:
    """The message in a google.protobuf.Any."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def seconds(value: float) -> duration_pb2.Duration:
    """A protobuf duration, at most as long as Envoy can count (292 years)."""
    if value >= LONGEST_S:
        return duration_pb2.Duration(seconds=LONGEST_S)
    whole = int(value)
    return duration_pb2.Duration(seconds=whole, nanos=round((value - whole) * 1e9))


def uint32(value: int) -> wrappers_pb2.UInt32Value:
    """A protobuf optional integer."""
    return wrappers_pb2.UInt32Value(value=value)


def uint64(value: int) -> wrappers_pb2.UInt64Value:
    """A protobuf optional large integer."""
    return wrappers_pb2.UInt64Value(value=value)


def boolean(value: bool) -> wrappers_pb2.BoolValue:
    """A protobuf optional boolean."""
    return wrappers_pb2.BoolValue(value=value)


def ads(*, patience: float = 0) -> config_source_pb2.ConfigSource:
    """Where proxies get further resources: the stream that they already have.

    Without `patience` (seconds), a listener waits for its routes rather than start without them.
    """
    return config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(),
        resource_api_version=config_source_pb2.V3,
        initial_fetch_timeout=seconds(patience),
    )


def retry_policy(hold_attempts: int) -> route_components_pb2.RetryPolicy:
    """Retries of a client's proxy: only what no app has seen (`numRetries` 0 turns them off)."""
    return route_components_pb2.RetryPolicy(
        retry_on="connect-failure,refused-stream,reset-before-request,retriable-headers",
        num_retries=uint32(hold_attempts),
        retriable_headers=[
            route_components_pb2.HeaderMatcher(name=UNREACHED_HEADER, present_match=True),
        ],
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.05), max_interval=seconds(1)
        ),
        retry_host_predicate=[
            route_components_pb2.RetryPolicy.RetryHostPredicate(
                name="envoy.retry_host_predicates.previous_hosts",
                typed_config=pack(previous_hosts_pb2.PreviousHostsPredicate()),
            )
        ],
        host_selection_retry_max_attempts=5,
    )


def inbound_retry_policy(*, is_idempotent: bool) -> route_components_pb2.RetryPolicy:
    """Retries of the server's proxy against its own app.

    An app that stops closes idle connections; a request already on its way there is sent again when
    its method allows (RFC 9110 section 9.2.2), and otherwise only if nothing of it was sent.
    """
    return route_components_pb2.RetryPolicy(
        retry_on="reset,connect-failure"
        if is_idempotent
        else "reset-before-request,connect-failure",
        num_retries=uint32(2),
        retry_back_off=route_components_pb2.RetryPolicy.RetryBackOff(
            base_interval=seconds(0.005), max_interval=seconds(0.02)
        ),
    )


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
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        use_remote_address=boolean(is_edge),
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        normalize_path=boolean(normalization is not NormalizationType.NONE),
        merge_slashes=normalization in _MERGES_SLASHES,
        stream_idle_timeout=seconds(0),
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(accept_http_10=True),
    )
    if normalization is NormalizationType.DECODE_AND_MERGE_SLASHES:
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
        return [router]
    return [
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
    value.format_string.text_format_source.inline_string = "%METADATA(CLUSTER:{}:{})%".format(
        *REQUEST_PROTOCOL
    )
    value.format_string.omit_empty_values = True
    return pack(set_filter_state_pb2.Config(on_request_headers=[value]))


def _mark_unreached() -> hcm_pb2.LocalReplyConfig:
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
