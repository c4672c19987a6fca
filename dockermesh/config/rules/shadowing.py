"""Warnings about rules of a VirtualService that can never match because an earlier one takes their
traffic.

`covers(a, b)` is sound: when it says yes, everything `b` matches is matched by `a`. It says no when
in doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.virtual_service import (
    HTTPMatchRequest,
    TCPRoute,
    TLSRoute,
    VirtualService,
)
from dockermesh.config.findings import Cursor

SHADOWED = "DM0003"
"""What `dockermesh analyze` calls the warnings."""
_ANYTHING = HTTPMatchRequest()
_MOST_COMPARED = 200
"""Earlier matches that a match is compared with: enough for people, and it bounds the time for
generated routes.
"""


def warn_shadowed(spec: VirtualService, at: Cursor) -> None:
    """Warn about shadowed rules of every protocol."""
    _warn_http(spec, at / "http")
    _warn_repeated(spec.tls, at / "tls")
    _warn_repeated(spec.tcp, at / "tcp")


def _warn_http(spec: VirtualService, at: Cursor) -> None:
    earlier: list[tuple[HTTPMatchRequest, str]] = []
    for index, route in enumerate(spec.http):
        name = repr(route.name) if route.name else f"#{index}"
        matches = route.match or (_ANYTHING,)
        covered = 0
        for number, match in enumerate(matches):
            by = _covering(match, earlier)
            if by and len(matches) > 1:
                (at / index / "match" / number).warn(
                    f"is never used: {by} takes its requests", SHADOWED
                )
            if not by and len(earlier) < _MOST_COMPARED:
                earlier.append((match, f"rule {name}"))
            covered += bool(by)

        if covered == len(matches):
            text = f"rule {name} is never used: earlier rules take all its requests (shadowed)"
            (at / index).warn(text, SHADOWED)


def _covering(
    match: HTTPMatchRequest, earlier: Sequence[tuple[HTTPMatchRequest, str]]
) -> str:
    """The rule that takes the requests of a match; empty if there is none."""
    return next((rule for known, rule in earlier if covers(known, match)), "")


def _warn_repeated(routes: Sequence[TLSRoute | TCPRoute], at: Cursor) -> None:
    seen: list[object] = []
    for index, route in enumerate(routes[:_MOST_COMPARED]):
        if isinstance(route, TLSRoute) and not route.match:
            continue  # an error of its own
        matches: list[object] = list(route.match) or [None]
        if seen and (None in seen or all(match in seen for match in matches)):
            (at / index).warn(
                f"rule #{index} is never used: earlier ones take all (shadowed)",
                SHADOWED,
            )
        # TCP and TLS rules have few conditions, so they are compared as they are.
        seen.extend(matches)


def covers(one: HTTPMatchRequest, other: HTTPMatchRequest) -> bool:
    """Whether every request that `other` matches is matched by `one`; no when in doubt."""
    if replace(one, name="", stat_prefix="") == replace(other, name="", stat_prefix=""):
        return True
    return (
        _client_covers(one, other)
        and _uri_covers(one, other)
        and all(_string_covers(getattr(one, n), getattr(other, n)) for n in _TEXTS)
        and all(_all_cover(getattr(one, n), getattr(other, n)) for n in _NAMED_TEXTS)
        # What is forbidden must be forbidden there, too, in the same words.
        and one.without_headers.items() <= other.without_headers.items()
    )


_TEXTS = ("scheme", "method", "authority")
_NAMED_TEXTS = ("headers", "query_params")


def _client_covers(one: HTTPMatchRequest, other: HTTPMatchRequest) -> bool:
    """As `covers`, for where a request comes from and arrives."""
    # No gateways are those of the VirtualService, which may be fewer than `one` names.
    is_any_gateway = not one.gateways or (
        bool(other.gateways) and set(other.gateways) <= set(one.gateways)
    )
    return (
        is_any_gateway
        and one.port in (0, other.port)
        and one.source_namespace in ("", other.source_namespace)
        and one.source_labels.items() <= other.source_labels.items()
    )


def _uri_covers(one: HTTPMatchRequest, other: HTTPMatchRequest) -> bool:
    if one.uri is not None and (
        one.uri.prefix == "/" or one.uri.regex in (".*", "/.*")
    ):
        return True
    # It matches spellings that `one` does not.
    if other.ignore_uri_case and not one.ignore_uri_case:
        return one.uri is None
    return _string_covers(one.uri, other.uri)


def _string_covers(one: StringMatch | None, other: StringMatch | None) -> bool:
    if one is None or one == other:
        return True
    if other is None or one.prefix is None:
        return False
    text = other.exact if other.exact is not None else other.prefix
    return text is not None and text.startswith(one.prefix)


def _all_cover(
    one: Mapping[str, StringMatch], other: Mapping[str, StringMatch]
) -> bool:
    return all(
        name in other and _string_covers(value, other[name])
        for name, value in one.items()
    )
