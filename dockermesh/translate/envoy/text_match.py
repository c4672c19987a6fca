"""Istio's comparisons of texts and headers (`StringMatch`) as Envoy's matchers."""

from __future__ import annotations

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2

from dockermesh.config.api.common import StringMatch


def header_matcher(
    name: str, match: StringMatch, *, invert: bool = False
) -> route_components_pb2.HeaderMatcher:
    """Whether a header is as said, or with `invert` is not."""
    if is_present(match):
        return route_components_pb2.HeaderMatcher(
            name=name, present_match=True, invert_match=invert
        )
    return route_components_pb2.HeaderMatcher(
        name=name,
        string_match=string_matcher(match),
        invert_match=invert,
        # Without the header the condition holds: an absent header is compared as an empty one.
        treat_missing_header_as_empty=invert,
    )


def is_present(match: StringMatch) -> bool:
    """Whether any value will do."""
    # `*` is no regular expression that RE2 would take: Istio means any value by it.
    return (
        match.exact is None and not match.prefix and match.regex is None
    ) or match.regex == "*"


def string_matcher(match: StringMatch) -> string_pb2.StringMatcher:
    """How a text is compared."""
    if match.exact is not None:
        return string_pb2.StringMatcher(exact=match.exact)
    if match.prefix:
        return string_pb2.StringMatcher(prefix=match.prefix)
    return string_pb2.StringMatcher(
        safe_regex=regex_pb2.RegexMatcher(regex=match.regex or ".*")
    )
