"""The HTTP rules of a VirtualService as Envoy routes, in order; the first that matches decides.

Source of every rule: Istio's VirtualService reference and `pilot/pkg/networking/core/route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.virtual_service import Destination, HTTPMatchRequest, HTTPRoute, HTTPRouteDestination
from dockermesh.translate.http import seconds, uint32
from dockermesh.translate.routes import to_cluster
from dockermesh.translate.settings import MeshSettings

ClusterOf = Callable[[Destination], str]
"""The cluster of a destination, as seen from the table that is made."""


def http_routes(
    rules: tuple[HTTPRoute, ...], cluster_of: ClusterOf, settings: MeshSettings
) -> list[route_components_pb2.Route]:
    """The routes of the rules; nothing is emitted after a rule that matches everything."""
    routes: list[route_components_pb2.Route] = []
    for rule in rules:
        for match in rule.match or (HTTPMatchRequest(),):
            routes.append(_route(rule, match, cluster_of, settings))
            if _is_catch_all(match):
                return routes
    return routes


def _is_catch_all(match: HTTPMatchRequest) -> bool:
    is_any_path = match.uri is None or match.uri.prefix == "/" or match.uri.regex in {".*", "*"}
    others = (match.headers, match.without_headers, match.query_params, match.method, match.scheme, match.authority)
    return is_any_path and not any(others)


def _route(
    rule: HTTPRoute, match: HTTPMatchRequest, cluster_of: ClusterOf, settings: MeshSettings
) -> route_components_pb2.Route:
    route = route_components_pb2.Route(name=match.name or rule.name, match=_match(match))
    if rule.redirect is not None:
        redirect = rule.redirect
        route.redirect.CopyFrom(
            route_components_pb2.RedirectAction(
                host_redirect=redirect.authority,
                path_redirect=redirect.uri,
                scheme_redirect=redirect.scheme,
                port_redirect=redirect.port or 0,
            )
        )
        return route
    route.route.CopyFrom(_action(rule, cluster_of, settings))
    if rule.rewrite is not None:
        _rewrite(route.route, rule, match)
    if rule.timeout is not None:
        route.route.timeout.CopyFrom(seconds(rule.timeout.total_seconds()))
    return route


def _action(rule: HTTPRoute, cluster_of: ClusterOf, settings: MeshSettings) -> route_components_pb2.RouteAction:
    targets = rule.route
    if len(targets) == 1:
        return to_cluster(_cluster(targets[0], cluster_of), settings)
    weighted = [t for t in targets if t.weight > 0]
    action = to_cluster("", settings)
    action.weighted_clusters.CopyFrom(
        route_components_pb2.WeightedCluster(
            clusters=[
                route_components_pb2.WeightedCluster.ClusterWeight(
                    name=_cluster(target, cluster_of), weight=uint32(target.weight)
                )
                for target in weighted
            ]
        )
    )
    return action


def _cluster(target: HTTPRouteDestination, cluster_of: ClusterOf) -> str:
    return cluster_of(target.destination or Destination())


def _rewrite(action: route_components_pb2.RouteAction, rule: HTTPRoute, match: HTTPMatchRequest) -> None:
    rewrite = rule.rewrite
    if rewrite is None:
        return
    if rewrite.authority:
        action.host_rewrite_literal = rewrite.authority
    if rewrite.uri:
        if match.uri is not None and match.uri.prefix is not None:
            action.prefix_rewrite = rewrite.uri
        else:
            action.regex_rewrite.pattern.regex = ".*"
            action.regex_rewrite.substitution = rewrite.uri
    elif rewrite.uri_regex_rewrite is not None:
        action.regex_rewrite.pattern.regex = rewrite.uri_regex_rewrite.match
        action.regex_rewrite.substitution = rewrite.uri_regex_rewrite.rewrite


def _match(match: HTTPMatchRequest) -> route_components_pb2.RouteMatch:
    result = route_components_pb2.RouteMatch(prefix="/")
    uri = match.uri
    if uri is not None and uri.exact is not None:
        result.path = uri.exact
    elif uri is not None and uri.prefix is not None:
        result.prefix = uri.prefix
    elif uri is not None and uri.regex is not None:
        result.safe_regex.CopyFrom(regex_pb2.RegexMatcher(regex=uri.regex))
    if match.ignore_uri_case:
        result.case_sensitive.value = False
    result.headers.extend(_headers(match.headers, invert=False))
    result.headers.extend(_headers(match.without_headers, invert=True))
    for pseudo, wanted in ((":method", match.method), (":authority", match.authority), (":scheme", match.scheme)):
        if wanted is not None:
            result.headers.append(_header(pseudo, wanted))
    for name, wanted in match.query_params.items():
        parameter = result.query_parameters.add(name=name)
        if _is_present(wanted):
            parameter.present_match = True
        else:
            parameter.string_match.CopyFrom(_string(wanted))
    return result


# Istio ignores these as header names: they have fields of their own.
_NOT_HEADERS = frozenset({"uri", "scheme", "method", "authority"})


def _headers(wanted: Mapping[str, StringMatch], *, invert: bool) -> list[route_components_pb2.HeaderMatcher]:
    matchers = []
    for name, match in sorted(wanted.items()):
        if name in _NOT_HEADERS:
            continue
        matcher = _header(name, match)
        matcher.invert_match = invert
        if invert and not _is_present(match):
            # Without the header the condition holds: an absent header is compared as an empty one.
            matcher.treat_missing_header_as_empty = True
        matchers.append(matcher)
    return matchers


def _header(name: str, match: StringMatch) -> route_components_pb2.HeaderMatcher:
    if _is_present(match):
        return route_components_pb2.HeaderMatcher(name=name, present_match=True)
    return route_components_pb2.HeaderMatcher(name=name, string_match=_string(match))


def _is_present(match: StringMatch) -> bool:
    return (match.exact is None and match.prefix is None and match.regex is None) or match.regex == "*"


def _string(match: StringMatch) -> string_pb2.StringMatcher:
    if match.exact is not None:
        return string_pb2.StringMatcher(exact=match.exact)
    if match.prefix:
        return string_pb2.StringMatcher(prefix=match.prefix)
    return string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=match.regex or ".*"))
