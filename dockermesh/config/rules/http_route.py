"""Rules of the HTTP routes of a VirtualService."""

from __future__ import annotations

import binascii
from base64 import b64decode
from datetime import timedelta

from dockermesh.config.api.common import GRPC_STATUSES, Percent, StringMatch
from dockermesh.config.api.virtual_service import (
    CorsPolicy,
    FaultAbort,
    FaultDelay,
    HTTPBody,
    HTTPDirectResponse,
    HTTPFaultInjection,
    HTTPMatchRequest,
    HTTPRedirect,
    HTTPRetry,
    HTTPRewrite,
    HTTPRoute,
)
from dockermesh.config.fields import camel_case
from dockermesh.config.findings import Cursor
from dockermesh.config.rules.headers import (
    check_cors_name,
    check_headers,
    check_match_name,
    check_string,
    is_authority,
)
from dockermesh.config.rules.names import check_label, check_port
from dockermesh.config.rules.regex import check_regex
from dockermesh.config.rules.routing import (
    check_destination,
    check_destinations,
    check_gateway_names,
    check_percentage,
    check_source,
)
from dockermesh.config.rules.scope import check_labels, report

# Istio's list: methods of an app's own cannot be allowed.
_METHODS = frozenset(
    [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "CONNECT",
        "OPTIONS",
        "TRACE",
        "*",
    ]
)
# Envoy's conditions for HTTP, and after them those for gRPC.
_RETRY_ON = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "retriable-status-codes",
        "retriable-headers",
        "envoy-ratelimited",
        "http3-post-connect-failure",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)
# Those that have a name in Go, which is how Istio tells statuses from other words.
_STATUS_CODES = {226, 307, 308, 428, 429, 431, 451, 510, 511} | frozenset(
    code
    for codes in (
        range(100, 104),
        range(200, 209),
        range(300, 306),
        range(400, 419),
        range(421, 427),
        range(500, 509),
    )
    for code in codes
)
# What Istio warns about and refuses; Envoy alone stops at 4096 octets unless told otherwise.
_LARGE_BODY = 100 * 1024
_LARGEST_BODY = 1024 * 1024


def check_http_route(http: HTTPRoute, at: Cursor, *, is_delegate: bool) -> None:
    """All rules of one HTTP route."""
    _check_conflicts(http, at, is_delegate=is_delegate)
    for index, match in enumerate(http.match):
        _check_match(match, at / "match" / index)
    check_headers(http.headers, at / "headers")
    _check_single_authority(http, at)

    if http.cors_policy is not None:
        _check_cors(http.cors_policy, at / "corsPolicy")
    if http.fault is not None:
        _check_fault(http.fault, at / "fault")
    _check_mirrors(http, at)

    if http.redirect is not None:
        _check_redirect(http.redirect, http, at / "redirect")
    if http.direct_response is not None:
        _check_direct_response(http.direct_response, at / "directResponse")
    if http.retries is not None:
        check_retries(http.retries, at / "retries")
    if http.rewrite is not None:
        _check_rewrite(http.rewrite, at / "rewrite")
    if http.delegate is not None:
        _check_delegate_reference(http, at / "delegate")
    check_destinations(http.route, at / "route")


def _check_conflicts(http: HTTPRoute, at: Cursor, *, is_delegate: bool) -> None:
    """A route forwards, redirects, answers or delegates, and what belongs to another of these has
    no place in it.
    """
    if http.delegate is not None and not is_delegate:
        _check_absent(
            _DECIDED_BY_DELEGATE, http, at, "a route with delegate must not have {}"
        )
        return
    if http.delegate is not None:
        (at / "delegate").error("a delegate's route cannot delegate again")

    terminal = (
        "redirect"
        if http.redirect
        else "directResponse"
        if http.direct_response
        else ""
    )
    if terminal:
        text = f"a route cannot have both {{}} and {terminal}"
        _check_absent(_NOT_WITH[terminal], http, at, text)
    elif not http.route:
        at.error("route, redirect or directResponse is required")
    if http.mirror is not None and http.mirrors:
        (at / "mirrors").error("a route cannot have both mirror and mirrors")


_DECIDED_BY_DELEGATE = ("redirect", "route", "direct_response")
_NOT_WITH = {
    "redirect": ("route", "fault", "rewrite", "direct_response"),
    "directResponse": ("route", "fault", "rewrite"),
}
"""Fields that have no meaning beside an answer that the proxy gives itself."""


def _check_absent(
    fields: tuple[str, ...], http: HTTPRoute, at: Cursor, text: str
) -> None:
    for field in fields:
        if getattr(http, field):
            name = camel_case(field)
            (at / name).error(text.format(name))


def _check_delegate_reference(http: HTTPRoute, at: Cursor) -> None:
    if http.delegate is not None and http.delegate.namespace:
        report(at / "namespace", check_label(http.delegate.namespace, "namespace"))


def _check_match(match: HTTPMatchRequest, at: Cursor) -> None:
    for name, value in match.headers.items():
        report(at / "headers" / name, check_match_name(name))
        check_string(value, at / "headers" / name)
    for name, value in match.without_headers.items():
        report(at / "withoutHeaders" / name, check_match_name(name))
        # Istio reads `*` as "any value", although it is no expression.
        if value.regex != "*":
            check_string(value, at / "withoutHeaders" / name)
    if match.uri is not None and match.uri.regex is not None:
        report(at / "uri" / "regex", check_regex(match.uri.regex))

    for field, string in (
        ("scheme", match.scheme),
        ("method", match.method),
        ("authority", match.authority),
    ):
        if string is not None:
            check_string(string, at / field)

    for name, value in match.query_params.items():
        check_string(value, at / "queryParams" / name)
    check_source(match.port, match.source_namespace, at)
    check_labels(match.source_labels, at / "sourceLabels")
    check_gateway_names(match.gateways, at / "gateways")


def _check_single_authority(http: HTTPRoute, at: Cursor) -> None:
    request = http.headers.request if http.headers is not None else None
    # `host` and `:authority` are one header, which Envoy sets once.
    names = [*request.set, *request.add] if request is not None else []
    rewrites = sum(is_authority(name) for name in names) + bool(
        http.rewrite is not None and http.rewrite.authority
    )
    if rewrites > 1:
        (at / "headers" / "request").error(
            "the authority header cannot be set more than once in a route"
        )


def _check_cors(cors: CorsPolicy, at: Cursor) -> None:
    for index, origin in enumerate(cors.allow_origins):
        _check_origin(origin, at / "allowOrigins" / index)
    for index, method in enumerate(cors.allow_methods):
        if method not in _METHODS:
            (at / "allowMethods" / index).error(
                f"{method[:40]!r} is not a supported HTTP method"
            )
    for field, names in (
        ("allowHeaders", cors.allow_headers),
        ("exposeHeaders", cors.expose_headers),
    ):
        for index, name in enumerate(names):
            report(at / field / index, check_cors_name(name))

    # Access-Control-Max-Age is in seconds.
    if cors.max_age is not None and cors.max_age % timedelta(seconds=1):
        (at / "maxAge").error("must be a whole number of seconds")


def _check_origin(origin: StringMatch, at: Cursor) -> None:
    if not (origin.exact or origin.prefix or origin.regex):
        at.error("exact, prefix or regex must be given, and not be empty")
    elif origin.regex is not None:
        report(at / "regex", check_regex(origin.regex))


def _check_fault(fault: HTTPFaultInjection, at: Cursor) -> None:
    if fault.abort is None and fault.delay is None:
        at.error("a fault must have an abort or a delay")
    if fault.delay is not None:
        _check_delay(fault.delay, at / "delay")
    if fault.abort is not None:
        _check_abort(fault.abort, at / "abort")


def _check_delay(delay: FaultDelay, at: Cursor) -> None:
    check_percentage(delay.percentage, at / "percentage")
    if delay.exponential_delay is not None:
        (at / "exponentialDelay").error("is not supported, use fixedDelay")
    if delay.percentage is None:
        # In Istio, an absent percentage is 0, not 100.
        at.warn("without percentage no request is delayed")


def _check_abort(abort: FaultAbort, at: Cursor) -> None:
    check_percentage(abort.percentage, at / "percentage")
    if abort.percentage is None:
        at.warn("without percentage no request is aborted")

    if abort.http_status is not None:
        report(at / "httpStatus", _check_status(abort.http_status))
    elif abort.grpc_status is not None and abort.grpc_status not in GRPC_STATUSES:
        text = f"{abort.grpc_status[:40]!r} is not a gRPC status such as NOT_FOUND"
        (at / "grpcStatus").error(text)
    elif abort.http2_error is not None:
        (at / "http2Error").error("is not supported, use httpStatus or grpcStatus")
    elif abort.grpc_status is None:
        at.warn("neither httpStatus nor grpcStatus is set, so nothing is aborted")


def _check_status(status: int) -> str:
    return (
        ""
        if 200 <= status <= 599
        else f"HTTP status {status} is not in the range 200..599"
    )


def _check_mirrors(http: HTTPRoute, at: Cursor) -> None:
    _check_share(http.mirror_percentage, at / "mirrorPercentage")
    if http.mirror is not None:
        check_destination(http.mirror, at / "mirror")
    for index, mirror in enumerate(http.mirrors):
        place = at / "mirrors" / index
        if mirror.destination is not None:
            check_destination(mirror.destination, place / "destination")
        _check_share(mirror.percentage, place / "percentage")


def _check_share(percentage: Percent | None, at: Cursor) -> None:
    if percentage is not None and not 0 <= percentage.value <= 100:
        (at / "value").error(f"must be in the range 0 to 100, not {percentage.value:g}")


def _check_redirect(redirect: HTTPRedirect, http: HTTPRoute, at: Cursor) -> None:
    if all(getattr(redirect, field) in (None, "") for field in _REDIRECTING):
        at.error("a redirect must have uri, prefixRewrite, authority, scheme or port")
    if redirect.prefix_rewrite:
        _check_prefix_rewrite(redirect, http, at / "prefixRewrite")
    if redirect.redirect_code and not 300 <= redirect.redirect_code <= 399:
        text = f"{redirect.redirect_code} is not a redirect code, it must be 3xx"
        (at / "redirectCode").error(text)
    if redirect.scheme not in ("", "http", "https"):
        (at / "scheme").error("must be http or https")
    if redirect.port:
        report(at / "port", check_port(redirect.port))


_REDIRECTING = ("uri", "prefix_rewrite", "authority", "scheme", "port", "derive_port")
"""Fields of a redirect that say where to."""


def _check_prefix_rewrite(redirect: HTTPRedirect, http: HTTPRoute, at: Cursor) -> None:
    if redirect.uri:
        at.error("only one of uri and prefixRewrite may be set")
    for index, match in enumerate(http.match):
        if match.uri is not None and match.uri.regex is not None:
            at.error(f"needs a prefix, but match[{index}].uri is a regex")


def _check_direct_response(response: HTTPDirectResponse, at: Cursor) -> None:
    report(at / "status", _check_status(response.status))
    if response.body is None:
        return
    size = _body_size(response.body, at / "body")
    # It is part of every proxy's configuration.
    if size > _LARGEST_BODY:
        (at / "body").error("must be smaller than 1 MiB")
    elif size > _LARGE_BODY:
        (at / "body").warn("bodies over 100 KiB slow the control plane down")


def _body_size(body: HTTPBody, at: Cursor) -> int:
    if body.bytes is None:
        return len((body.string or "").encode())
    try:
        return len(b64decode(body.bytes, validate=True))
    except (binascii.Error, ValueError):
        (at / "bytes").error("must be base64")
        return 0


def check_retries(retries: HTTPRetry, at: Cursor) -> None:
    """A retry policy, of a route or of the mesh."""
    has_settings = bool(retries.retry_on) or any(
        value is not None
        for value in (retries.per_try_timeout, retries.retry_remote_localities)
    )
    if retries.attempts < 0:
        (at / "attempts").error("must not be negative")
    if retries.attempts == 0 and has_settings:
        (at / "attempts").error(
            "is 0, which disables retries, but other retry settings are given"
        )
    for policy in retries.retry_on.split(",") if retries.retry_on else ():
        if policy not in _RETRY_ON and not _is_status(policy):
            (at / "retryOn").error(
                f"{policy[:40]!r} is not a retry condition or an HTTP status"
            )


def _is_status(text: str) -> bool:
    # Istio takes statuses among the conditions, and makes `retriable-status-codes` of them.
    return (
        len(text) == 3
        and text.isascii()
        and text.isdecimal()
        and int(text) in _STATUS_CODES
    )


def _check_rewrite(rewrite: HTTPRewrite, at: Cursor) -> None:
    regex = rewrite.uri_regex_rewrite
    if rewrite.uri and regex is not None:
        (at / "uriRegexRewrite").error("only one of uri and uriRegexRewrite may be set")
    if not rewrite.uri and regex is None and not rewrite.authority:
        at.error("a rewrite must have uri, uriRegexRewrite or authority")
    if regex is not None:
        if not regex.match or not regex.rewrite:
            (at / "uriRegexRewrite").error("needs both match and rewrite")
        else:
            report(at / "uriRegexRewrite" / "match", check_regex(regex.match))
