"""Claims of valid tokens: where the filter that checks tokens leaves them, and how others match
them.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.type.matcher.v3 import metadata_pb2, value_pb2

JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_PAYLOAD = "payload"
JWT_HEADER = "header-"
"""Before a provider's name: where the header of a token that it took is left."""


def claim_matcher(
    path: Iterable[str], value: value_pb2.ValueMatcher, *, invert: bool = False
) -> metadata_pb2.MetadataMatcher:
    """A claim (nested: by its path) that has this value, or is a list with it."""
    # `aud` and `groups`, for example, may be one text as well as a list.
    listed = value_pb2.ValueMatcher(list_match=value_pb2.ListMatcher(one_of=value))
    either = value_pb2.ValueMatcher(
        or_match=value_pb2.OrMatcher(value_matchers=[listed, value])
    )
    return metadata_matcher(JWT_FILTER, (JWT_PAYLOAD, *path), either, invert=invert)


def metadata_matcher(
    name: str,
    path: Iterable[str],
    value: value_pb2.ValueMatcher,
    *,
    invert: bool = False,
) -> metadata_pb2.MetadataMatcher:
    """What a filter left in the metadata of a request."""
    segments = [metadata_pb2.MetadataMatcher.PathSegment(key=key) for key in path]
    return metadata_pb2.MetadataMatcher(
        filter=name, path=segments, value=value, invert=invert
    )
