"""What RateLimits become in Envoy: filters of requests and filters of connections.

Each limit that a proxy counts for itself is a filter of its own, so what one refuses, answers and
counts is no other's; those of a limiter are in `global_limits`. They stand behind the policies:
what those refuse costs nobody's share, and claims are known.

Sources: Envoy's *Local rate limit* of HTTP and of the network, its *Connection limit*, and *Rate
limit actions* in the reference of routes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.network.connection_limit.v3 import connection_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.local_ratelimit.v3 import (
    local_rate_limit_pb2 as connection_rate_pb2,
)
from envoy.type.v3 import http_status_pb2, token_bucket_pb2

from dockermesh.config.api.rate_limit import (
    ConnectionLimits,
    Limit,
    LimitResponse,
    Mode,
    NamedValue,
    RateLimit,
)
from dockermesh.config.resource import Resource
from dockermesh.model.contract import LIMIT_HEADER
from dockermesh.model.rate_limits import Per
from dockermesh.translate.envoy.packing import pack, seconds, uint32, uint64
from dockermesh.translate.security.global_limits import (
    global_connection_filter,
    global_filters,
)
from dockermesh.translate.security.limit_actions import (
    IS_ROUTE,
    MATCHED,
    ROUTE,
    action,
    conditions,
    descriptor_key,
    filter_name,
    has_matchers,
    limit_name,
    share,
    stat_prefix,
)
from dockermesh.translate.security.policies import SecurityFilters
from dockermesh.translate.security.rate_limits import Limits

_MOST_VALUES = 10_000
"""Buckets of one limit, the least recently used make room: a client that makes up names costs no
more.
"""
_Entry = ratelimit_pb2.RateLimitDescriptor.Entry


def limited(security: SecurityFilters, limits: Limits, port: int) -> SecurityFilters:
    """The filters of a port, with what limits it."""
    resources = limits.on(port)
    # Nothing is in the path of what nobody limits.
    if not resources:
        return security
    return replace(
        security,
        http=[*security.http, *_request_filters(resources)],
        connections=list(_connection_filters(resources, port)),
        replies=list(_replies(resources)),
    )


# requests
# ------------------------------------------------------------------------------------------


def _request_filters(
    resources: Sequence[Resource[RateLimit]],
) -> Iterator[hcm_pb2.HttpFilter]:
    for resource in resources:
        if resource.spec.mode is Mode.GLOBAL:
            yield from global_filters(resource)
            continue
        for limit in resource.spec.limits:
            made = _local_limit(resource, limit)
            yield hcm_pb2.HttpFilter(
                name=filter_name(resource, limit.name), typed_config=pack(made)
            )


def _local_limit(
    resource: Resource[RateLimit], limit: Limit
) -> local_rate_limit_pb2.LocalRateLimit:
    answer = limit.response or LimitResponse()
    made = local_rate_limit_pb2.LocalRateLimit(
        stat_prefix=f"{stat_prefix(resource)}.{limit.name}",
        status=http_status_pb2.HttpStatus(code=answer.status),
        filter_enabled=share(100),
        # In shadow it counts what it would refuse.
        filter_enforced=share(0 if resource.spec.shadow else 100),
        response_headers_to_add=[]
        if resource.spec.shadow
        else _headers(resource, limit),
        # What gRPC's clients look at; to others it is the status that counts.
        rate_limited_as_resource_exhausted=True,
    )
    if answer.quota_headers and not resource.spec.shadow:
        made.enable_x_ratelimit_headers = ratelimit_pb2.DRAFT_VERSION_03

    actions = [*conditions(limit.match), *map(action, limit.by)]
    if not actions:
        made.token_bucket.CopyFrom(_bucket(limit))
        return made

    # Requests without one of the descriptors make no entry, and meet no bucket.
    made.rate_limits.append(route_components_pb2.RateLimit(actions=actions))
    made.descriptors.extend(_buckets(limit))
    if limit.by:
        made.max_dynamic_descriptors.CopyFrom(uint32(_MOST_VALUES))
    return made


def _headers(
    resource: Resource[RateLimit], limit: Limit
) -> list[base_pb2.HeaderValueOption]:
    # By then the slowest bucket has a token again.
    amounts: tuple[Limit | NamedValue, ...] = (limit, *limit.named)
    wait = max(math.ceil(Per[each.unit.name] / each.requests) for each in amounts)
    # The second keeps proxies on the way from repeating it, as of any answer of a global limiter.
    found = {"retry-after": str(wait), "x-envoy-ratelimited": "true"}
    if limit.response is not None and limit.response.body is not None:
        found[LIMIT_HEADER] = limit_name(resource, limit.name)
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=key, value=value),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for key, value in found.items()
    ]


def _buckets(limit: Limit) -> Iterator[ratelimit_pb2.LocalRateLimitDescriptor]:
    matched = []
    if limit.match is not None:
        if has_matchers(limit.match):
            matched.append(_Entry(key=MATCHED, value=MATCHED))
        if limit.match.routes:
            matched.append(_Entry(key=ROUTE, value=IS_ROUTE))

    # Without a value an entry is for each value that comes.
    buckets: list[tuple[Limit | NamedValue, tuple[str, ...]]] = [
        *((named, named.values) for named in limit.named),
        (limit, ("",) * len(limit.by)),
    ]
    for each, values in buckets:
        entries = (
            _Entry(key=descriptor_key(by), value=value)
            for by, value in zip(limit.by, values, strict=True)
        )
        yield ratelimit_pb2.LocalRateLimitDescriptor(
            entries=[*matched, *entries], token_bucket=_bucket(each)
        )


def _bucket(amount: Limit | NamedValue) -> token_bucket_pb2.TokenBucket:
    return _token_bucket(amount.requests, amount.burst, Per[amount.unit.name])


def _token_bucket(
    amount: int, burst: int | None, unit_s: int
) -> token_bucket_pb2.TokenBucket:
    """Envoy refills it all the time, so the unit needs no parts: a rate and a burst."""
    return token_bucket_pb2.TokenBucket(
        max_tokens=burst or amount,
        tokens_per_fill=uint32(amount),
        fill_interval=seconds(unit_s),
    )


def _replies(resources: Iterable[Resource[RateLimit]]) -> Iterator[Any]:
    """The users' own texts: a filter of limits has none, but the connection manager can put one in
    by the answer's header.
    """
    for resource in resources:
        # A limiter brings the text along with its answer.
        is_said_here = resource.spec.mode is Mode.LOCAL and not resource.spec.shadow
        for limit in resource.spec.limits if is_said_here else ():
            if limit.response is None or limit.response.body is None:
                continue
            named = json.dumps(limit_name(resource, limit.name))
            found = cel_pb2.ExpressionFilter(
                expression=f"response.headers[{json.dumps(LIMIT_HEADER)}] == {named}"
            )
            yield hcm_pb2.ResponseMapper(
                filter=accesslog_pb2.AccessLogFilter(
                    extension_filter=accesslog_pb2.ExtensionFilter(
                        name="envoy.access_loggers.extension_filters.cel",
                        typed_config=pack(found),
                    )
                ),
                body=base_pb2.DataSource(inline_string=limit.response.body),
            )


# connections
# ------------------------------------------------------------------------------------------


def _connection_filters(
    resources: Iterable[Resource[RateLimit]], port: int
) -> Iterator[listener_components_pb2.Filter]:
    for resource in resources:
        if resource.spec.connections is not None:
            yield from _connection_limits(resource, resource.spec.connections, port)


def _connection_limits(
    resource: Resource[RateLimit], wanted: ConnectionLimits, port: int
) -> Iterator[listener_components_pb2.Filter]:
    name = filter_name(resource)
    stats = stat_prefix(resource)
    made: Any
    if wanted.per_second is not None and resource.spec.mode is Mode.GLOBAL:
        yield listener_components_pb2.Filter(
            name=name, typed_config=pack(global_connection_filter(resource))
        )
    elif wanted.per_second is not None:
        made = connection_rate_pb2.LocalRateLimit(
            stat_prefix=stats,
            token_bucket=_token_bucket(wanted.per_second, wanted.burst, 1),
            # One bucket, in however many ways the port is reached.
            share_key=f"{name}{port}",
        )
        yield listener_components_pb2.Filter(name=name, typed_config=pack(made))

    if wanted.max is not None:
        made = connection_limit_pb2.ConnectionLimit(
            stat_prefix=stats, max_connections=uint64(wanted.max)
        )
        yield listener_components_pb2.Filter(name=name, typed_config=pack(made))
