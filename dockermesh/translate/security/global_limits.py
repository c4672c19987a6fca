"""RateLimits that all proxies count together: Envoy's filters that ask, and the limits by which the
limiter answers.

Both halves stand here, as they must agree on domain and descriptors. Invariant: how many may pass
is in the limiter's half alone, so that a change of it leaves listeners and counts as they are.

A filter asks once for all limits of a RateLimit that answer alike, and the limiter takes a share of
all of them or of none. Sources: Envoy's *Rate limit* of HTTP and of the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from envoy.config.core.v3 import config_source_pb2, grpc_service_pb2
from envoy.config.ratelimit.v3 import rls_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.common.ratelimit.v3 import ratelimit_pb2
from envoy.extensions.filters.http.ratelimit.v3 import rate_limit_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from envoy.extensions.filters.network.ratelimit.v3 import (
    rate_limit_pb2 as connection_rate_pb2,
)
from envoy.type.v3 import http_status_pb2

from dockermesh.config.api.rate_limit import (
    FailureMode,
    Limit,
    LimitResponse,
    Mode,
    NamedValue,
    RateLimit,
)
from dockermesh.config.resource import Resource
from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.model.rate_limits import (
    CountedLimit,
    LimitDomains,
    LimitNode,
    Per,
    Rate,
)
from dockermesh.translate.envoy.names import LIMITER_CLUSTER
from dockermesh.translate.envoy.packing import pack, seconds
from dockermesh.translate.mesh.settings import IstioConfig
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
from dockermesh.translate.security.limit_files import called_in, domains_of_files

_PATIENCE_S = 0.5
"""So long a request waits for an answer at most."""
_LIMIT, _CONNECTIONS = "limit", "connections"
_Action = route_components_pb2.RateLimit.Action


def asks_limiter(resources: Sequence[Resource[RateLimit]]) -> bool:
    """Whether a proxy with these limits has to know where the limiter is."""
    return any(resource.spec.mode is Mode.GLOBAL for resource in resources)


# Envoy's half
# --------------------------------------------------------------------------------------------------


def global_filters(resource: Resource[RateLimit]) -> Iterator[hcm_pb2.HttpFilter]:
    """The filters of a RateLimit: one for all of its limits that answer alike."""
    alike = sorted(resource.spec.limits, key=_answer)
    for (status, quota_headers), group in groupby(alike, key=_answer):
        limits = list(group)
        made = rate_limit_pb2.RateLimit(
            domain=_domain(resource),
            stat_prefix=stat_prefix(resource),
            timeout=seconds(_PATIENCE_S),
            failure_mode_deny=resource.spec.failure_mode is FailureMode.CLOSED,
            status_on_error=http_status_pb2.HttpStatus(code=503),
            rate_limited_status=http_status_pb2.HttpStatus(code=status),
            rate_limited_as_resource_exhausted=True,
            rate_limit_service=_service(),
            filter_enforced=share(0 if resource.spec.shadow else 100),
            rate_limits=[_question(limit) for limit in limits],
        )
        if quota_headers and not resource.spec.shadow:
            made.enable_x_ratelimit_headers = rate_limit_pb2.RateLimit.DRAFT_VERSION_03
        names = ",".join(limit.name for limit in limits)
        yield hcm_pb2.HttpFilter(
            name=filter_name(resource, names), typed_config=pack(made)
        )


def global_connection_filter(
    resource: Resource[RateLimit],
) -> connection_rate_pb2.RateLimit:
    """The filter that asks for each new connection."""
    entry = ratelimit_pb2.RateLimitDescriptor.Entry(
        key=_CONNECTIONS, value=_CONNECTIONS
    )
    return connection_rate_pb2.RateLimit(
        stat_prefix=stat_prefix(resource),
        domain=_domain(resource),
        descriptors=[ratelimit_pb2.RateLimitDescriptor(entries=[entry])],
        timeout=seconds(_PATIENCE_S),
        failure_mode_deny=resource.spec.failure_mode is FailureMode.CLOSED,
        rate_limit_service=_service(),
    )


def _answer(limit: Limit) -> tuple[int, bool]:
    answer = limit.response or LimitResponse()
    return answer.status, answer.quota_headers


def _domain(resource: Resource[RateLimit]) -> str:
    return f"{resource.namespace}/{resource.name}"


def _service() -> rls_pb2.RateLimitServiceConfig:
    envoy = grpc_service_pb2.GrpcService.EnvoyGrpc(
        cluster_name=LIMITER_CLUSTER, authority=CONTROL_PLANE_HOST
    )
    return rls_pb2.RateLimitServiceConfig(
        transport_api_version=config_source_pb2.V3,
        grpc_service=grpc_service_pb2.GrpcService(envoy_grpc=envoy),
    )


def _question(limit: Limit) -> Any:
    name = _Action(
        generic_key=_Action.GenericKey(
            descriptor_key=_LIMIT, descriptor_value=limit.name
        )
    )
    return route_components_pb2.RateLimit(
        actions=[name, *conditions(limit.match), *map(action, limit.by)]
    )


# the limiter's half
# --------------------------------------------------------------------------------------------------


def is_limiter_asked(config: IstioConfig) -> bool:
    """Whether any proxy may ask it."""
    return (
        asks_limiter(config.rate_limits)
        or bool(config.rate_limit_configs)
        or any(called_in(repr(f.spec).encode()) for f in config.envoy_filters)
    )


def limiter_domains(config: IstioConfig) -> LimitDomains:
    """What the limiter is to answer by: to filters made here, and to those of the users' own."""
    ours = {
        (CONTROL_PLANE_HOST, _domain(resource)): _tree(resource)
        for resource in config.rate_limits
        if resource.spec.mode is Mode.GLOBAL
    }
    return {**ours, **domains_of_files(config.rate_limit_configs)}


def _tree(resource: Resource[RateLimit]) -> LimitNode:
    nodes = {
        (_LIMIT, limit.name): _under_conditions(resource, limit)
        for limit in resource.spec.limits
    }
    wanted = resource.spec.connections
    if wanted is not None and wanted.per_second is not None:
        amount = wanted.per_second
        counted = CountedLimit(
            limit_name(resource, _CONNECTIONS),
            Rate(amount, Per.SECOND, wanted.burst or amount),
        )
        nodes[_CONNECTIONS, _CONNECTIONS] = LimitNode(counted)
    return LimitNode(exact=nodes)


def _under_conditions(resource: Resource[RateLimit], limit: Limit) -> LimitNode:
    node = _by_values(resource, limit, limit.named, 0)
    # From the last entry of a descriptor to the first.
    if limit.match is not None and limit.match.routes:
        node = LimitNode(exact={(ROUTE, IS_ROUTE): node})
    if limit.match is not None and has_matchers(limit.match):
        node = LimitNode(exact={(MATCHED, MATCHED): node})
    return node


def _by_values(
    resource: Resource[RateLimit],
    limit: Limit,
    named: Sequence[NamedValue],
    level: int,
) -> LimitNode:
    """The values of `by` from this level on, of those that may still be one of the named."""
    if level == len(limit.by):
        return LimitNode(_counted(resource, limit, named[0] if named else limit))

    key = descriptor_key(limit.by[level])
    exact = {}
    for value in dict.fromkeys(each.values[level] for each in named):
        fitting = [each for each in named if each.values[level] == value]
        exact[key, value] = _by_values(resource, limit, fitting, level + 1)
    others = _by_values(resource, limit, (), level + 1)
    return LimitNode(exact=exact, any_value={key: others})


def _counted(
    resource: Resource[RateLimit], limit: Limit, amount: Limit | NamedValue
) -> CountedLimit:
    body = limit.response.body if limit.response is not None else None
    rate = Rate(amount.requests, Per[amount.unit.name], amount.burst or amount.requests)
    return CountedLimit(
        limit_name(resource, limit.name), rate, body=body or "", tells_name=bool(body)
    )
