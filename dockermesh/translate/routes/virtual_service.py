"""The HTTP rules of a VirtualService as Envoy routes, in order; the first that matches decides.

Source of every rule: Istio's VirtualService reference and `pilot/pkg/networking/core/route`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2

from dockermesh.config.api.destination_rule import ConsistentHashLB
from dockermesh.config.api.virtual_service import (
    Destination,
    HTTPDirectResponse,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRoute,
    HTTPRouteDestination,
    RedirectPortSelection,
    VirtualService,
)
from dockermesh.config.resource import Resource
from dockermesh.translate.clusters.load_balancer import hash_policy
from dockermesh.translate.envoy.offered import tell_spoken
from dockermesh.translate.envoy.origin import note_origin
from dockermesh.translate.envoy.packing import seconds, uint32
from dockermesh.translate.mesh.index import MESH_GATEWAY, destinations_of
from dockermesh.translate.routes.destinations import Dependency, Destinations, live
from dockermesh.translate.routes.filters import apply_filters, fraction
from dockermesh.translate.routes.header_operations import apply_headers
from dockermesh.translate.routes.match import is_catch_all, route_match
from dockermesh.translate.routes.retries import retries
from dockermesh.translate.routes.tables import forward_to

_Redirect = route_components_pb2.RedirectAction
_REDIRECT_CODES = {
    302: _Redirect.FOUND,
    303: _Redirect.SEE_OTHER,
    307: _Redirect.TEMPORARY_REDIRECT,
    308: _Redirect.PERMANENT_REDIRECT,
}
_PREFIX_OF_MATCH = "%PREFIX()%"
# As large as `max_direct_response_body_size_bytes` of the tables: Envoy refuses a larger one.
_LARGEST_BODY = 1 << 20


@dataclass(frozen=True, slots=True)
class RouteContext:
    """From where a VirtualService is looked at: a port of sidecars, or one of a gateway's servers.

    `gateways` are the names (`mesh`, or `namespace/name`) by which a match may refer to that place.
    """

    destinations: Destinations
    port: int
    gateways: frozenset[str] = frozenset({MESH_GATEWAY})


def http_routes(
    resource: Resource[VirtualService], context: RouteContext
) -> list[route_components_pb2.Route]:
    """The routes of the rules; nothing is emitted after a rule that matches everything."""
    routes: list[route_components_pb2.Route] = []
    for rule in resource.spec.http:
        if rule.delegate is not None:
            continue
        for match in rule.match or (HTTPMatchRequest(),):
            if not applies(match, resource.namespace, context):
                continue
            route = _route(rule, match, resource.namespace, context)
            if route is None:
                continue
            note_origin(route, resource)
            routes.append(route)
            if is_catch_all(route.match):
                return routes

    return routes


def applies(match: Any, namespace: str, context: RouteContext) -> bool:
    """Whether a match concerns this place at all: its port, its gateway, and for sidecars who the
    client is.
    """
    if match.port and match.port != context.port:
        return False
    # As in Istio, a match that names gateways is not asked for the client's labels any more.
    if match.gateways:
        return any(
            qualified_gateway(g, namespace) in context.gateways for g in match.gateways
        )

    scope = context.destinations.scope
    # Who calls a gateway is no workload whose labels and namespace are known.
    if MESH_GATEWAY not in context.gateways:
        return True
    if match.source_namespace and match.source_namespace != scope.namespace:
        return False
    return scope.carries(match.source_labels)


def qualified_gateway(name: str, namespace: str) -> str:
    """`mesh`, or `namespace/name`."""
    return name if name == MESH_GATEWAY or "/" in name else f"{namespace}/{name}"


def dependencies(
    resource: Resource[VirtualService], destinations: Destinations
) -> tuple[Dependency, ...]:
    """What of other services and rules the routes of a VirtualService are made of."""
    found = {target.host: target for target in destinations_of(resource.spec)}
    return tuple(
        destinations.depends_on(found[host], resource.namespace)
        for host in sorted(found)
    )


def _route(
    rule: HTTPRoute, match: HTTPMatchRequest, namespace: str, context: RouteContext
) -> route_components_pb2.Route | None:
    route = route_components_pb2.Route(
        name=".".join(part for part in (rule.name, match.name) if part),
        match=route_match(match),
    )
    if match.stat_prefix:
        route.stat_prefix = match.stat_prefix
    authority = apply_headers(route, rule.headers)

    if rule.redirect is not None:
        _redirect(route.redirect, rule.redirect, context.port)
    elif rule.direct_response is not None:
        _direct_response(route.direct_response, rule.direct_response)
    elif rule.route:
        _forward(route, rule, namespace, context)
        # The rule's own header counts more than those of its targets, `rewrite` more than both.
        if authority:
            route.route.host_rewrite_literal = authority
        _rewrite(route.route, rule)
    else:
        return None

    apply_filters(route, rule)
    return route


def _redirect(action: Any, wanted: HTTPRedirect, port: int) -> None:
    action.SetInParent()
    if wanted.authority:
        action.host_redirect = wanted.authority

    if wanted.prefix_rewrite:
        action.prefix_rewrite = wanted.prefix_rewrite
    elif wanted.uri.startswith(_PREFIX_OF_MATCH):
        action.prefix_rewrite = wanted.uri.removeprefix(_PREFIX_OF_MATCH)
    elif wanted.uri:
        action.path_redirect = wanted.uri

    if wanted.scheme:
        action.scheme_redirect = wanted.scheme
    if wanted.port:
        action.port_redirect = wanted.port
    elif wanted.derive_port is RedirectPortSelection.FROM_REQUEST_PORT:
        action.port_redirect = port

    action.response_code = _REDIRECT_CODES.get(
        wanted.redirect_code, _Redirect.MOVED_PERMANENTLY
    )


def _direct_response(action: Any, wanted: HTTPDirectResponse) -> None:
    # Envoy refuses other statuses.
    action.status = wanted.status if 200 <= wanted.status < 600 else 500
    if wanted.body is None:
        return

    if wanted.body.string is not None:
        action.body.CopyFrom(
            base_pb2.DataSource(inline_string=wanted.body.string[:_LARGEST_BODY])
        )
    elif wanted.body.bytes is not None:
        try:
            content = base64.b64decode(wanted.body.bytes)
        except (binascii.Error, ValueError):
            return

        action.body.CopyFrom(base_pb2.DataSource(inline_bytes=content[:_LARGEST_BODY]))


def _forward(
    route: Any, rule: HTTPRoute, namespace: str, context: RouteContext
) -> None:
    targets = live(rule.route)
    destinations, called = context.destinations, context.port
    clusters = [
        destinations.cluster(t.destination or Destination(), namespace, called)
        for t in targets
    ]
    action = route.route

    told = [
        destinations.destination_tells_spoken(
            t.destination or Destination(), namespace, called
        )
        for t in targets
    ]

    if len(targets) == 1:
        action.CopyFrom(forward_to(clusters[0]))
        if told[0]:
            tell_spoken(route.typed_per_filter_config)
        authority = apply_headers(route, targets[0].headers)
        if authority:
            action.host_rewrite_literal = authority
    else:
        action.CopyFrom(forward_to(""))
        _weigh(action, targets, clusters, told)

    hashed = _hashed(targets, namespace, context)
    action.hash_policy.extend(hash_policy(hashed))
    policy = retries(
        rule.retries,
        destinations.mesh.settings,
        is_hashed=hashed is not None,
        is_mesh_alone=all(
            destinations.leads_to_mesh_alone(
                t.destination or Destination(), namespace, context.port
            )
            for t in targets
        ),
    )
    if policy is not None:
        action.retry_policy.CopyFrom(policy)

    if rule.timeout is not None:
        _limit(action, rule.timeout)

    _mirror(action, rule, namespace, context)
    # Spans are named by the first target, in Istio's form: one route has one name.
    _, port, _, host = clusters[0].split("|", maxsplit=3)
    route.decorator.operation = f"{host}:{port}{_operation(route.match)}"


def _hashed(
    targets: Iterable[HTTPRouteDestination], namespace: str, context: RouteContext
) -> ConsistentHashLB | None:
    """What the route hashes on: a route has one hash policy, that of the first target with one."""
    found = (
        context.destinations.hash_of(
            t.destination or Destination(), namespace, context.port
        )
        for t in targets
    )
    return next((h for h in found if h is not None), None)


def _limit(action: Any, timeout: timedelta) -> None:
    limit = seconds(timeout.total_seconds())
    # Where max_stream_duration is present, Envoy looks at nothing else: it would never time out.
    action.ClearField("max_stream_duration")
    action.timeout.CopyFrom(limit)
    # A gRPC client's own deadline counts if it is shorter; Envoy ignores it without this field.
    action.max_grpc_timeout.CopyFrom(limit)


def _operation(match: route_components_pb2.RouteMatch) -> str:
    if match.path:
        return str(match.path)
    return f"{match.prefix.rstrip('*')}*" if match.prefix else "/*"


def _weigh(
    action: Any,
    targets: Iterable[HTTPRouteDestination],
    clusters: Iterable[str],
    told: Iterable[bool],
) -> None:
    for target, cluster, tells in zip(targets, clusters, told, strict=True):
        entry = action.weighted_clusters.clusters.add(
            name=cluster, weight=uint32(target.weight)
        )
        authority = apply_headers(entry, target.headers)
        if authority:
            entry.host_rewrite_literal = authority
        if tells:
            tell_spoken(entry.typed_per_filter_config)


def _mirror(
    action: Any, rule: HTTPRoute, namespace: str, context: RouteContext
) -> None:
    wanted = [(m.destination, m.percentage) for m in rule.mirrors]
    if rule.mirror is not None:
        wanted.append((rule.mirror, rule.mirror_percentage))

    for destination, percentage in wanted:
        # Unlike a fault, a mirror without percentage is for all requests.
        share = fraction(percentage, default=100)
        if destination is None or not share.numerator:
            continue
        policy = action.request_mirror_policies.add(
            cluster=context.destinations.cluster(destination, namespace, context.port)
        )
        policy.runtime_fraction.default_value.CopyFrom(share)


def _rewrite(action: Any, rule: HTTPRoute) -> None:
    rewrite = rule.rewrite
    if rewrite is None:
        return

    if rewrite.authority:
        action.host_rewrite_literal = rewrite.authority
    if rewrite.uri:
        # Envoy replaces what matched: the prefix, or the whole path of an exact or regular
        # expression match.
        action.prefix_rewrite = rewrite.uri
    elif rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite
