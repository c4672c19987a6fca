"""What filters that count for themselves and those that ask a limiter share: the actions, each of
which makes an entry of what Envoy is to find in a request; and the names of filters and limits.

A request without one of the entries is not counted. Source: *Rate limit actions* in Envoy's
reference of routes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from envoy.config.core.v3 import base_pb2, extension_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.rate_limit_descriptors.expr.v3 import expr_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.metadata.v3 import metadata_pb2
from envoy.type.v3 import percent_pb2

from dockermesh.config.api.rate_limit import (
    Attribute,
    Descriptor,
    RateLimit,
    RequestMatch,
)
from dockermesh.config.resource import Resource
from dockermesh.config.rules.rate_limit_match import (
    hosts_expression,
    methods_expression,
    paths_expression,
)
from dockermesh.translate.envoy.claims import JWT_FILTER, JWT_PAYLOAD
from dockermesh.translate.envoy.names import LIMIT_PREFIX
from dockermesh.translate.envoy.packing import pack
from dockermesh.translate.envoy.text_match import header_matcher

MATCHED, ROUTE, IS_ROUTE = "matched", "route", "true"
"""The entries of conditions: all but the route hold; the route is one of those named."""
_ATTRIBUTES = {
    Attribute.IDENTITY: "connection.uri_san_peer_certificate",
    Attribute.PATH: "request.url_path",
}
_Action = route_components_pb2.RateLimit.Action


def filter_name(resource: Resource[RateLimit], limits: str = "") -> str:
    """The name of a filter of some limits of a RateLimit; without these, how all of them start."""
    return LIMIT_PREFIX + limit_name(resource, limits)


def limit_name(resource: Resource[RateLimit], limit: str) -> str:
    """What users are told of a limit."""
    return f"{resource.namespace}/{resource.name}/{limit}"


def stat_prefix(resource: Resource[RateLimit]) -> str:
    """What Envoy's own statistics of a RateLimit are called."""
    return f"rate_limit.{resource.namespace}.{resource.name}"


def share(percent: int) -> base_pb2.RuntimeFractionalPercent:
    """Of how many requests a setting of a filter holds."""
    return base_pb2.RuntimeFractionalPercent(
        default_value=percent_pb2.FractionalPercent(numerator=percent)
    )


def conditions(match: RequestMatch | None) -> Iterator[Any]:
    """Actions that make an entry each where a request is meant, and else none or another one."""
    if match is None:
        return
    headers = list(_matchers(match))
    if headers:
        yield _Action(
            header_value_match=_Action.HeaderValueMatch(
                descriptor_key=MATCHED, descriptor_value=MATCHED, headers=headers
            )
        )
    if match.routes:
        # CEL knows no escapes of two halves, which JSON has for what is beyond 16 bits.
        names = json.dumps(list(match.routes), ensure_ascii=False)
        yield _expression(ROUTE, f"xds.route_name in {names}")


def has_matchers(match: RequestMatch) -> bool:
    """Whether there is an entry `MATCHED`."""
    return match != RequestMatch(routes=match.routes)


def _matchers(match: RequestMatch) -> list[route_components_pb2.HeaderMatcher]:
    wanted = (
        (":authority", match.hosts, hosts_expression),
        (":path", match.paths, paths_expression),
        (":method", match.methods, methods_expression),
    )
    of_request = (
        route_components_pb2.HeaderMatcher(
            name=name,
            string_match=string_pb2.StringMatcher(
                safe_regex=regex_pb2.RegexMatcher(regex=expression(values))
            ),
        )
        for name, values, expression in wanted
        if values
    )
    of_headers = (
        header_matcher(name, text, invert=invert)
        for headers, invert in ((match.headers, False), (match.without_headers, True))
        for name, text in sorted(headers.items())
    )
    return [*of_request, *of_headers]


def descriptor_key(by: Descriptor) -> str:
    """The key of the entry that a descriptor makes."""
    if by.attribute is Attribute.CLIENT_ADDRESS:
        return "remote_address"
    return by.header or by.claim or str(by.attribute)


def action(by: Descriptor) -> Any:
    """The action that makes an entry of what a request says."""
    if by.header is not None:
        return _Action(
            request_headers=_Action.RequestHeaders(
                header_name=by.header, descriptor_key=descriptor_key(by)
            )
        )
    if by.claim is not None:
        path = [
            metadata_pb2.MetadataKey.PathSegment(key=part)
            for part in (JWT_PAYLOAD, *by.claim.split("."))
        ]
        return _Action(
            metadata=_Action.MetaData(
                descriptor_key=descriptor_key(by),
                metadata_key=metadata_pb2.MetadataKey(key=JWT_FILTER, path=path),
            )
        )
    if by.attribute is None or by.attribute is Attribute.CLIENT_ADDRESS:
        return _Action(remote_address=_Action.RemoteAddress())
    return _expression(descriptor_key(by), _ATTRIBUTES[by.attribute])


def _expression(key: str, text: str) -> Any:
    return _Action(
        extension=extension_pb2.TypedExtensionConfig(
            name="envoy.rate_limit_descriptors.expr",
            typed_config=pack(expr_pb2.Descriptor(descriptor_key=key, text=text)),
        )
    )
