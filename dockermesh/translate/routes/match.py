"""The conditions of an HTTP rule as Envoy's route matches.

Source of every rule: Istio's VirtualService reference and `pilot/pkg/networking/core/route`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import metadata_pb2, regex_pb2, string_pb2, value_pb2

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.virtual_service import HTTPMatchRequest
from dockermesh.translate.envoy.claims import claim_matcher
from dockermesh.translate.envoy.text_match import (
    header_matcher,
    is_present,
    string_matcher,
)

_CLAIMS = "@request.auth.claims"
# Istio ignores these as header names: they have fields of their own.
_NOT_HEADERS = frozenset({"uri", "scheme", "method", "authority"})


def route_match(match: HTTPMatchRequest) -> route_components_pb2.RouteMatch:
    """The match of one set of conditions."""
    # Envoy wants a condition on the path in every match.
    result = route_components_pb2.RouteMatch(prefix="/")
    if match.uri is not None:
        _match_path(result, match.uri)
    if match.ignore_uri_case:
        result.case_sensitive.value = False

    for listed, invert in ((match.headers, False), (match.without_headers, True)):
        result.headers.extend(_headers(listed, invert=invert))
        result.dynamic_metadata.extend(_claims(listed, invert=invert))

    for pseudo, wanted in (
        (":method", match.method),
        (":authority", match.authority),
        (":scheme", match.scheme),
    ):
        if wanted is not None:
            result.headers.append(header_matcher(pseudo, wanted))

    for name, wanted in match.query_params.items():
        parameter = result.query_parameters.add(name=name)
        if is_present(wanted):
            parameter.present_match = True
        else:
            parameter.string_match.CopyFrom(string_matcher(wanted))

    return result


def _match_path(result: route_components_pb2.RouteMatch, uri: StringMatch) -> None:
    if uri.exact is not None:
        result.path = uri.exact
    elif uri.prefix is not None:
        # `/foo` matches `/foobar`, too: Istio's prefixes are text, unlike those of the Gateway API.
        result.prefix = uri.prefix
    elif uri.regex is not None:
        result.safe_regex.CopyFrom(regex_pb2.RegexMatcher(regex=uri.regex))


def is_catch_all(match: route_components_pb2.RouteMatch) -> bool:
    """Whether every request fulfils the conditions."""
    is_any_path = match.prefix == "/" or match.safe_regex.regex in {".*", "*"}
    return (
        is_any_path
        and not match.headers
        and not match.query_parameters
        and not match.dynamic_metadata
    )


def decides_by_request(routes: Iterable[route_components_pb2.Route]) -> bool:
    """Whether one of the routes takes, or rewrites, requests by what they say."""
    return any(
        not is_catch_all(route.match)
        or route.route.prefix_rewrite
        or route.route.HasField("regex_rewrite")
        for route in routes
    )


def _headers(
    wanted: Mapping[str, StringMatch], *, invert: bool
) -> list[route_components_pb2.HeaderMatcher]:
    matchers = []
    for name, match in sorted(wanted.items()):
        if name in _NOT_HEADERS or name.startswith(_CLAIMS):
            continue
        matchers.append(header_matcher(name, match, invert=invert))

    return matchers


def _claims(
    wanted: Mapping[str, StringMatch], *, invert: bool
) -> list[metadata_pb2.MetadataMatcher]:
    """Conditions on claims of a valid token, written as headers: `@request.auth.claims.sub` or
    `...[a][b]`.

    Source: Istio's task *JWT claim based routing*; gateways only, since no sidecar checks tokens of
    its own app.
    """
    found = []
    for name, match in sorted(wanted.items()):
        if name.startswith(_CLAIMS):
            rest = name.removeprefix(_CLAIMS)
            path = (
                rest[1:-1].split("][")
                if rest.startswith("[")
                else rest.removeprefix(".").split(".")
            )
            text = regex_pb2.RegexMatcher(regex=".+") if is_present(match) else None
            value = (
                string_pb2.StringMatcher(safe_regex=text)
                if text is not None
                else string_matcher(match)
            )
            found.append(
                claim_matcher(
                    path, value_pb2.ValueMatcher(string_match=value), invert=invert
                )
            )

    return found
