"""External authorizers (action CUSTOM) as Envoy's ext_authz filters, for HTTP and for TCP.

An RBAC filter with shadow rules goes before, which notes the first rule that a request matches; the
authorizer is asked only if that rule is one of its own. Source: Istio's MeshConfig reference,
EnvoyExternalAuthorizationHttpProvider and -GrpcProvider.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from envoy.config.core.v3 import (
    base_pb2,
    config_source_pb2,
    grpc_service_pb2,
    http_uri_pb2,
)
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2 as http_pb2
from envoy.extensions.filters.network.ext_authz.v3 import ext_authz_pb2 as tcp_pb2
from envoy.type.matcher.v3 import metadata_pb2, string_pb2, value_pb2
from envoy.type.v3 import http_status_pb2

from dockermesh.config.api.mesh_config import (
    AuthorizationRequestBody,
    ExternalAuthorizationProvider,
    Provider,
)
from dockermesh.translate.envoy.names import outbound_cluster
from dockermesh.translate.envoy.packing import seconds

SHADOW_PREFIX = "istio_ext_authz_"
_MATCHED = f"{SHADOW_PREFIX}shadow_effective_policy_id"
_STATUSES = frozenset(http_status_pb2.StatusCode.values()) - {0}
_LONGEST_S = 600.0
"""Istio's default: in effect the authorizer's own time limits apply."""


def rule_prefix(authorizer: str) -> str:
    """What the names of an authorizer's rules start with, before `ns[`; no other authorizer's
    do.
    """
    return f"istio-ext-authz-{authorizer}-"


def is_usable(settings: ExternalAuthorizationProvider) -> bool:
    """Whether Envoy takes these settings; it knows only some of the HTTP statuses."""
    status = settings.status_on_error
    return 0 < settings.port < 65536 and (
        not status or (status.isdecimal() and int(status) in _STATUSES)
    )


@dataclass(frozen=True, slots=True)
class Authorizer:
    """A provider of the mesh settings, and the hostname of its service."""

    name: str
    host: str
    provider: Provider = field(hash=False)

    def http(self, rbac_filter: str) -> http_pb2.ExtAuthz | None:
        """The HTTP filter, asked where `rbac_filter` found a rule; None if the provider is no
        authorizer.
        """
        grpc, http = (
            self.provider.envoy_ext_authz_grpc,
            self.provider.envoy_ext_authz_http,
        )
        settings = grpc or http
        if settings is None:
            return None

        made = http_pb2.ExtAuthz(
            failure_mode_allow=settings.fail_open,
            clear_route_cache=settings.clear_route_cache,
            transport_api_version=config_source_pb2.V3,
            # Without it the authorizer would be asked about every request.
            filter_enabled_metadata=self._enabled(rbac_filter),
        )
        if settings.status_on_error:
            made.status_on_error.CopyFrom(
                http_status_pb2.HttpStatus(code=int(settings.status_on_error))
            )

        body = settings.include_request_body_in_check
        if body is not None and body.max_request_bytes:
            made.with_request_body.CopyFrom(_body(body))

        if grpc is not None:
            made.grpc_service.CopyFrom(self._grpc(grpc))
        elif http is not None:
            made.http_service.CopyFrom(self._http(http))
            # The second is Istio's former name of the same setting.
            included = (
                http.include_request_headers_in_check or http.include_headers_in_check
            )
            if included:
                made.allowed_headers.CopyFrom(_names(included))

        return made

    def tcp(self, rbac_filter: str) -> tcp_pb2.ExtAuthz | None:
        """The network filter; None if the provider is no authorizer by gRPC, which alone can judge
        connections.
        """
        grpc = self.provider.envoy_ext_authz_grpc
        if grpc is None:
            return None
        return tcp_pb2.ExtAuthz(
            stat_prefix="tcp.",
            failure_mode_allow=grpc.fail_open,
            transport_api_version=config_source_pb2.V3,
            grpc_service=self._grpc(grpc),
            filter_enabled_metadata=self._enabled(rbac_filter),
        )

    def _grpc(
        self, settings: ExternalAuthorizationProvider
    ) -> grpc_service_pb2.GrpcService:
        return grpc_service_pb2.GrpcService(
            # The cluster's name would be the authority, by which no server is configured.
            envoy_grpc=grpc_service_pb2.GrpcService.EnvoyGrpc(
                cluster_name=outbound_cluster(self.host, settings.port),
                authority=self.host,
            ),
            timeout=seconds(_timeout(settings)),
        )

    def _http(self, settings: ExternalAuthorizationProvider) -> http_pb2.HttpService:
        made = http_pb2.HttpService(
            path_prefix=settings.path_prefix,
            server_uri=http_uri_pb2.HttpUri(
                uri=f"http://{self.host}",
                cluster=outbound_cluster(self.host, settings.port),
                timeout=seconds(_timeout(settings)),
            ),
        )
        added = sorted(settings.include_additional_headers_in_check.items())
        made.authorization_request.headers_to_add.extend(
            base_pb2.HeaderValue(key=k, value=v) for k, v in added
        )
        answer = made.authorization_response

        for target, names in (
            (answer.allowed_upstream_headers, settings.headers_to_upstream_on_allow),
            (answer.allowed_client_headers, settings.headers_to_downstream_on_deny),
            (
                answer.allowed_client_headers_on_success,
                settings.headers_to_downstream_on_allow,
            ),
        ):
            if names:
                target.CopyFrom(_names(names))

        return made

    def _enabled(self, rbac_filter: str) -> metadata_pb2.MetadataMatcher:
        # By the names of rules: another authorizer's rule may be the first that matches.
        matched = string_pb2.StringMatcher(prefix=f"{rule_prefix(self.name)}ns[")
        return metadata_pb2.MetadataMatcher(
            filter=rbac_filter,
            path=[metadata_pb2.MetadataMatcher.PathSegment(key=_MATCHED)],
            value=value_pb2.ValueMatcher(string_match=matched),
        )


def _timeout(settings: ExternalAuthorizationProvider) -> float:
    return (
        settings.timeout.total_seconds() if settings.timeout is not None else _LONGEST_S
    )


def _body(settings: AuthorizationRequestBody) -> http_pb2.BufferSettings:
    return http_pb2.BufferSettings(
        max_request_bytes=settings.max_request_bytes,
        allow_partial_message=settings.allow_partial_message,
        pack_as_bytes=settings.pack_as_bytes,
    )


def _names(headers: Iterable[str]) -> string_pb2.ListStringMatcher:
    """Names of headers in any case; `a*` and `*a` are prefix and suffix."""
    patterns = []
    for name in headers:
        if name.startswith("*"):
            patterns.append(string_pb2.StringMatcher(suffix=name[1:], ignore_case=True))
        elif name.endswith("*"):
            patterns.append(
                string_pb2.StringMatcher(prefix=name[:-1], ignore_case=True)
            )
        else:
            patterns.append(string_pb2.StringMatcher(exact=name, ignore_case=True))
    return string_pb2.ListStringMatcher(patterns=patterns)
