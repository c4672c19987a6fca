"""Rules of RateLimit."""

from __future__ import annotations

import re

from dockermesh.config.api.rate_limit import (
    Attribute,
    ConnectionLimits,
    Descriptor,
    FailureMode,
    Limit,
    LimitResponse,
    Mode,
    NamedValue,
    RateLimit,
    RequestMatch,
)
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.headers import check_name, check_string
from dockermesh.config.rules.names import is_label
from dockermesh.config.rules.path_template import check_template
from dockermesh.config.rules.rate_limit_match import (
    hosts_expression,
    methods_expression,
    paths_expression,
)
from dockermesh.config.rules.regex import check_program
from dockermesh.config.rules.scope import check_label_selector, check_targets, report

MOST = 1_000_000_000
"""More than any proxy serves in a second: a limit above is a slip of the pen."""
_TARGETS = frozenset({("core", "Service"), ("gateway.networking.k8s.io", "Gateway")})
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_METHOD = re.compile(r"[A-Z][A-Z-]*")
_CLAIM = re.compile(r"[^.\s]+(\.[^.\s]+)*")


def check_rate_limit(resource: Resource[RateLimit], at: Cursor) -> None:
    """All rules of a RateLimit."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(None, spec.target_refs, at)
    for index, target in enumerate(spec.target_refs):
        if (target.group or "core", target.kind) not in _TARGETS:
            (at / "targetRefs" / index / "kind").error(
                "limits are attached to a Service or to a Gateway of"
                " gateway.networking.k8s.io; reach other gateways by selector"
            )

    if spec.mode is Mode.LOCAL and spec.failure_mode is FailureMode.CLOSED:
        (at / "failureMode").error(
            "needs mode GLOBAL: a proxy that counts for itself can always count"
        )
    if not spec.limits and spec.connections is None:
        at.error("limits nothing: set limits or connections")

    names: set[str] = set()
    for index, limit in enumerate(spec.limits):
        place = at / "limits" / index
        if limit.name in names:
            (place / "name").error(f"{limit.name!r} is the name of another limit")
        names.add(limit.name)
        _check_limit(limit, place)

    if spec.connections is not None:
        _check_connections(spec.connections, spec, at / "connections")


def _check_limit(limit: Limit, at: Cursor) -> None:
    # A part of the names of metrics.
    if not is_label(limit.name):
        (at / "name").error(
            f"{limit.name[:63]!r} must be lower-case letters, digits and dashes"
        )
    _check_amount(limit.requests, limit.burst, at)
    if limit.match is not None:
        _check_match(limit.match, at / "match")
    for index, descriptor in enumerate(limit.by):
        _check_descriptor(descriptor, at / "by" / index)
    if len(set(limit.by)) < len(limit.by):
        (at / "by").error("names the same twice")
    _check_named(limit, at / "named")
    if limit.response is not None:
        _check_response(limit.response, at / "response")


def _check_amount(
    amount: int, burst: int | None, at: Cursor, name: str = "requests"
) -> None:
    _check_number(amount, at / name)
    if burst is not None:
        _check_number(burst, at / "burst")


def _check_number(number: int, at: Cursor) -> None:
    if not number:
        at.error(
            "must be at least 1; to refuse all, use an AuthorizationPolicy with action"
            " DENY"
        )
    elif number > MOST:
        at.error(f"must be at most {MOST}")


def _check_match(match: RequestMatch, at: Cursor) -> None:
    if match == RequestMatch():
        at.error("must not be empty; leave it out to count all requests")

    for field, values, pattern, meaning in (
        ("hosts", match.hosts, _HOST, "a host, or `*.` and a domain"),
        ("methods", match.methods, _METHOD, "a method in capitals"),
    ):
        for index, value in enumerate(values):
            if not pattern.fullmatch(value):
                (at / field / index).error(f"{value[:80]!r} is not {meaning}")

    for index, path in enumerate(match.paths):
        wrong = check_template(path)
        if not wrong and "=" in path:
            wrong = f"{path[:80]!r}: a variable is {{name}} here, without a pattern"
        report(at / "paths" / index, wrong)
    for index, route in enumerate(match.routes):
        if not route or not route.isprintable():
            (at / "routes" / index).error("must be the name of a route")

    for field, headers in (
        ("headers", match.headers),
        ("withoutHeaders", match.without_headers),
    ):
        for name, wanted in headers.items():
            report(at / field / name, check_name(name))
            # As in a VirtualService: `*` is "any value", although it is no expression.
            if field == "headers" or wanted.regex != "*":
                check_string(wanted, at / field / name)

    _check_expressions(match, at)


def _check_expressions(match: RequestMatch, at: Cursor) -> None:
    for field, values, expression in (
        ("hosts", match.hosts, hosts_expression),
        ("paths", match.paths, paths_expression),
        ("methods", match.methods, methods_expression),
    ):
        if values and check_program(expression(values)):
            (at / field).error("are too many or too long for one limit; split it")


def _check_descriptor(descriptor: Descriptor, at: Cursor) -> None:
    if descriptor.header is not None:
        report(at / "header", check_name(descriptor.header))
    elif descriptor.claim is not None:
        if not _CLAIM.fullmatch(descriptor.claim):
            (at / "claim").error(f"{descriptor.claim[:80]!r} is not a claim's name")
    elif descriptor.attribute is None:
        at.error("one of header, claim and attribute must be set")


def _check_named(limit: Limit, at: Cursor) -> None:
    if limit.named and not limit.by:
        at.error("needs `by`, which says whose values these are")
        return

    seen: set[tuple[str, ...]] = set()
    for index, named in enumerate(limit.named):
        place = at / index
        _check_amount(named.requests, named.burst, place)
        _check_values(named, limit, place / "values")
        if named.values in seen:
            (place / "values").error("have a limit already")
        seen.add(named.values)


def _check_values(named: NamedValue, limit: Limit, at: Cursor) -> None:
    if len(named.values) != len(limit.by):
        at.error(f"must be {len(limit.by)}: one for each of `by`, in its order")
        return
    for index, (value, by) in enumerate(zip(named.values, limit.by, strict=True)):
        if not value:
            (at / index).error("must not be empty")
        elif by.attribute is Attribute.IDENTITY and not value.startswith("spiffe://"):
            (at / index).error(
                f"{value[:80]!r} must be a SPIFFE id, such as"
                " spiffe://cluster.local/ns/default/sa/web"
            )


def _check_response(response: LimitResponse, at: Cursor) -> None:
    # Envoy answers 429 in place of any status below.
    if not 400 <= response.status <= 599:
        (at / "status").error("must be 400 to 599")
    if response.body is not None and not response.body:
        (at / "body").error("must not be empty")


def _check_connections(wanted: ConnectionLimits, spec: RateLimit, at: Cursor) -> None:
    if wanted == ConnectionLimits():
        at.error("limits nothing: set max or perSecond")
    if wanted.max is not None:
        _check_number(wanted.max, at / "max")
    if wanted.per_second is not None:
        _check_amount(wanted.per_second, wanted.burst, at, "perSecond")
    elif wanted.burst is not None:
        (at / "burst").error("needs perSecond")
    # Envoy's filters of connections have no dry run.
    if spec.shadow:
        at.error("cannot be in shadow: connections are refused or they are not")
