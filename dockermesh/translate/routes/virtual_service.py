"""The HTTP rules of a VirtualService as Envoy routes, in order; the first that matches decides.

Source of every rule: Istio's VirtualService reference and `pilot/pkg/networking/core/route`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.route.v3 import route_components_pb2

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
from dockermesh.translate.envoy.origin import note_origin
from dockermesh.translate.envoy.packing import seconds, uint32
from dockermesh.translate.mesh.index import MESH_GATEWAY
from dockermesh.translate.routes.destinations import Dependency, Destinations
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
    if match.gateways:
        return any(
            qualified_gateway(g, namespace) in context.gateways for g in match.gateways
        )

    scope = context.destinations.scope
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
    found: dict[str, Destination] = {}
    spec = resource.spec

    for rule in spec.http:
        mirrors = [*(m.destination for m in rule.mirrors), rule.mirror]
        for target in (*(t.destination for t in rule.route), *mirrors):
            if target is not None:
                found[target.host] = target

    for targets in (*(r.route for r in spec.tls), *(r.route for r in spec.tcp)):
        found.update(
            (t.destination.host, t.destination)
            for t in targets
            if t.destination is not None
        )

    return tuple(
        destinations.depends_on(found[key], resource.namespace) for key in sorted(found)
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
    live = (
        [t for t in rule.route if t.weight > 0]
        if len(rule.route) > 1
        else list(rule.route)
    )
    live = live or list(rule.route[:1])
    destinations, called = context.destinations, context.port
    targets = [(t, t.destination or Destination()) for t in live]
    hashes = [
        destinations.hash_of(destination, namespace, called)
        for _, destination in targets
    ]
    hashed = next((h for h in hashes if h is not None), None)
    clusters = [
        destinations.cluster(destination, namespace, called)
        for _, destination in targets
    ]
    route.route.CopyFrom(forward_to(clusters[0] if len(clusters) == 1 else ""))
    action = route.route

    if len(targets) == 1:
        authority = apply_headers(route, targets[0][0].headers)
        if authority:
            action.host_rewrite_literal = authority
    else:
        _weigh(action, [t for t, _ in targets], clusters)

    action.hash_policy.extend(hash_policy(hashed))
    policy = retries(
        rule.retries, destinations.mesh.settings, is_hashed=hashed is not None
    )
    if policy is not None:
        action.retry_policy.CopyFrom(policy)

    if rule.timeout is not None:
        limit = seconds(rule.timeout.total_seconds())
        # Where max_stream_duration is present, Envoy looks at nothing else: it would never time
        # out.
        action.ClearField("max_stream_duration")
        action.timeout.CopyFrom(limit)
        action.max_grpc_timeout.CopyFrom(limit)

    _mirror(action, rule, namespace, context)
    _, _, host = clusters[0].rpartition("|")
    route.decorator.operation = (
        f"{host}:{clusters[0].split('|')[1]}{_operation(route.match)}"
    )


def _operation(match: route_components_pb2.RouteMatch) -> str:
    if match.path:
        return str(match.path)
    return f"{match.prefix.rstrip('*')}*" if match.prefix else "/*"


def _weigh(
    action: Any, targets: list[HTTPRouteDestination], clusters: list[str]
) -> None:
    for target, cluster in zip(targets, clusters, strict=True):
        entry = action.weighted_clusters.clusters.add(
            name=cluster, weight=uint32(target.weight)
        )
        authority = apply_headers(entry, target.headers)
        if authority:
            entry.host_rewrite_literal = authority


def _mirror(
    action: Any, rule: HTTPRoute, namespace: str, context: RouteContext
) -> None:
    wanted = [(m.destination, m.percentage) for m in rule.mirrors]
    if rule.mirror is not None:
        wanted.append((rule.mirror, rule.mirror_percentage))

    for destination, percentage in wanted:
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
