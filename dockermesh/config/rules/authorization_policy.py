"""Rules of AuthorizationPolicy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from dockermesh.config.api.authorization_policy import (
    Action,
    AuthorizationPolicy,
    Condition,
    Operation,
    Rule,
    Source,
)
from dockermesh.config.fields import json_name
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.names import check_subnet
from dockermesh.config.rules.path_template import check_policy_path
from dockermesh.config.rules.scope import check_label_selector, check_targets, report

# What Go's ParseBool takes.
_TRUTH = frozenset(
    {"1", "t", "T", "true", "TRUE", "True", "0", "f", "F", "false", "FALSE", "False"}
)
_DRY_RUN = "istio.io/dry-run"
_MAX_EXPRESSION = 4096
"""Octets of a value that becomes part of a regular expression: so many make a program that Envoy
accepts, even where a value is there four times (in a list of values of a header).
"""
_MAX_ACCOUNTS = 16
_MAX_ACCOUNT = 320
"""Istio's limits of the service accounts of one rule."""
_INLINE = "request.experimental.inline.headers"
_IDENTITY = ("principals", "not_principals", "namespaces", "not_namespaces")
_HTTP_ONLY_SOURCES = ("request_principals", "not_request_principals")
_MAP_KEYS = (
    "request.headers",
    _INLINE,
    "request.auth.claims",
    "experimental.envoy.filters.",
)
_OF_PEERS = (
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
)
# Attributes of 1.x before the v1beta1 API.
_GONE = {
    "destination.namespace": "the namespace of the policy",
    "destination.name": "the selector",
    "destination.user": "the selector",
}


def check_authorization_policy(
    resource: Resource[AuthorizationPolicy], at: Cursor
) -> None:
    """All rules of an AuthorizationPolicy."""
    spec = resource.spec
    check_label_selector(spec.selector, at / "selector")
    check_targets(spec.target_ref, spec.target_refs, at)
    _check_action(spec, at)
    _check_dry_run(resource, at)
    raw_rules = _raw_list(resource.document.get("spec"), "rules")
    for index, rule in enumerate(spec.rules):
        place = at / "rules" / index
        raw = raw_rules[index] if index < len(raw_rules) else {}
        for name in ("from", "to"):
            # Decoded, an empty list is as absent, which would match everything.
            if isinstance(raw, dict) and raw.get(name) == []:
                (place / name).error("must not be empty")
        _check_rule(rule, spec.action, place)


def _raw_list(raw: Any, key: str) -> list[Any]:
    value = raw.get(key) if isinstance(raw, dict) else None
    return value if isinstance(value, list) else []


def _check_action(spec: AuthorizationPolicy, at: Cursor) -> None:
    # No rules match nothing: ALLOW without rules denies all, DENY without rules does nothing.
    if spec.action in (Action.CUSTOM, Action.DENY) and not spec.rules:
        (at / "rules").error(
            f"action {spec.action.value} without rules never applies; add an empty rule to"
            " match all"
        )
    if spec.action is Action.CUSTOM and (
        spec.provider is None or not spec.provider.name
    ):
        (at / "provider" / "name").error("must be set for action CUSTOM")
    if spec.action is not Action.CUSTOM and spec.provider is not None:
        (at / "provider").error(
            f"may only be set for action CUSTOM, not for {spec.action.value}"
        )


def _check_dry_run(resource: Resource[AuthorizationPolicy], at: Cursor) -> None:
    value = resource.annotations.get(_DRY_RUN)
    if value is None:
        return
    place = at.findings.at("metadata", "annotations", _DRY_RUN)
    if resource.spec.action not in (Action.ALLOW, Action.DENY):
        place.error("is only supported for actions ALLOW and DENY")
    elif value not in _TRUTH:
        place.error(f"{value[:40]!r} is not a boolean")


def _check_rule(rule: Rule, action: Action, at: Cursor) -> None:
    for index, entry in enumerate(rule.sources):
        place = at / "from" / index / "source"
        if entry.source is None:
            place.missing()
        else:
            _check_source(entry.source, action, place)

    for index, to in enumerate(rule.to):
        place = at / "to" / index / "operation"
        if to.operation is None:
            place.missing()
        else:
            _check_operation(to.operation, place)

    for index, condition in enumerate(rule.when):
        _check_condition(condition, action, at / "when" / index)
    if action is Action.DENY and _denies_all_tcp(rule):
        at.warn(
            "denies all traffic to TCP ports, as only HTTP attributes are used in a DENY rule; name"
            " the ports"
        )


def _denies_all_tcp(rule: Rule) -> bool:
    """Whether only HTTP attributes narrow the rule: on TCP ports, where they cannot be seen, a DENY
    rule is applied without them.
    """
    operations = [entry.operation for entry in rule.to if entry.operation is not None]
    if operations:
        return not any(
            operation.ports or operation.not_ports for operation in operations
        )

    sources = [entry.source for entry in rule.sources if entry.source is not None]
    return bool(sources) and not any(_is_seen_in_tcp(source) for source in sources)


def _is_seen_in_tcp(source: Source) -> bool:
    seen = (f.name for f in fields(source) if f.name not in _HTTP_ONLY_SOURCES)
    return any(getattr(source, name) for name in seen)


def _check_source(source: Source, action: Action, at: Cursor) -> None:
    if source == Source():
        at.error("must not be empty")
    accounts = source.service_accounts or source.not_service_accounts
    if accounts and any(getattr(source, name) for name in _IDENTITY):
        (at / "serviceAccounts").error(
            "cannot be combined with namespaces or principals"
        )
    for f in fields(source):
        check = _source_check(f.name)
        values = getattr(source, f.name)
        _check_values(values, at / json_name(f), check)
        _check_count(f.name, values, at / json_name(f))
        if action is Action.CUSTOM and values and not f.name.endswith("ip_blocks"):
            (at / json_name(f)).error("is not supported with action CUSTOM")


def _check_count(name: str, values: tuple[str, ...], at: Cursor) -> None:
    if name.endswith("service_accounts") and len(values) > _MAX_ACCOUNTS:
        at.error(f"may have at most {_MAX_ACCOUNTS} values")


def _source_check(name: str) -> Callable[[str], str]:
    """The check of the values of a field of a source."""
    checks = {
        "ip_blocks": check_subnet,
        "service_accounts": _check_account,
        "trust_domains": _check_trust_domain,
    }
    return next(
        (c for end, c in checks.items() if name.endswith(end)), _check_expression
    )


def _check_expression(value: str) -> str:
    """A value that may become part of a regular expression."""
    if len(value.encode()) > _MAX_EXPRESSION:
        return f"is too long, at most {_MAX_EXPRESSION} octets are allowed"
    return ""


def _check_account(account: str) -> str:
    parts = account.split("/")
    if len(parts) > 2 or not all(parts):
        return f"{account[:80]!r} must be 'account' or 'namespace/account'"
    if "*" in account:
        return f"{account[:80]!r}: a service account is named in full, without '*'"
    if len(account.encode()) > _MAX_ACCOUNT:
        return f"is too long, at most {_MAX_ACCOUNT} octets are allowed"
    return ""


def _check_trust_domain(domain: str) -> str:
    if "/" in domain:
        return f"trust domain {domain[:80]!r} must not contain '/'"
    return _check_wildcard(domain)


def _check_wildcard(value: str) -> str:
    """A value with `*` at one of its ends at most."""
    if "*" in value[1:-1] or (value != "*" and value.count("*") > 1):
        return f"{value[:80]!r} may have one '*', at its start or its end"
    return _check_expression(value)


def _check_operation(operation: Operation, at: Cursor) -> None:
    if operation == Operation():
        at.error("must not be empty")
    for f in fields(operation):
        check: Callable[[str], str] | None = None
        if f.name.endswith("ports"):
            check = _check_port_text
        elif f.name.endswith("paths"):
            check = _check_path
        _check_values(getattr(operation, f.name), at / json_name(f), check)


def _check_values(
    values: tuple[str, ...], at: Cursor, check: Callable[[str], str] | None
) -> None:
    for index, value in enumerate(values):
        if not value:
            (at / index).error("empty value is not allowed")
        elif check is not None:
            report(at / index, check(value))


def _check_port_text(port: str) -> str:
    valid = (
        port.isascii() and port.isdecimal() and len(port) <= 10 and int(port) <= 65535
    )
    return "" if valid else f"{port[:40]!r} is not a port"


def _check_path(path: str) -> str:
    # A template that Envoy cannot read becomes a regular expression.
    return check_policy_path(path) or _check_expression(path)


def _check_condition(condition: Condition, action: Action, at: Cursor) -> None:
    key = condition.key
    if not key:
        (at / "key").error("must not be empty")
        return

    if not condition.values and not condition.not_values:
        at.error(f"values or notValues must be set for key {key!r}")
    if key == "source.serviceAccount":
        _check_count("service_accounts", condition.values, at / "values")
        _check_count("service_accounts", condition.not_values, at / "notValues")

    wrong, check = _condition_check(key)
    report(at / "key", wrong)
    _check_values(condition.values, at / "values", check)
    _check_values(condition.not_values, at / "notValues", check)
    # The external authorizer is asked before tokens are read.
    if action is Action.CUSTOM and (
        key.startswith("request.auth.") or key in _OF_PEERS
    ):
        (at / "key").error(f"{key} is not supported with action CUSTOM")


def _condition_check(key: str) -> tuple[str, Callable[[str], str] | None]:
    """What is wrong with a key, and the check of its values."""
    if key in _KEYS:
        return "", _KEYS[key]
    if key.startswith(_MAP_KEYS):
        opening = key.find("[")
        if not (key.endswith("]") and 0 < opening < len(key) - 2):
            return f"bad key {key[:80]!r}: should have the form a[b]", None
        return "", _check_expression if key.startswith(_INLINE) else None

    if key in _GONE or key.startswith("destination.labels"):
        return (
            f"attribute {key} is no longer supported, use {_GONE.get(key, 'the selector')}",
            None,
        )
    return f"unknown attribute {key[:80]!r}", None


_KEYS: dict[str, Callable[[str], str] | None] = {
    "source.ip": check_subnet,
    "remote.ip": check_subnet,
    "destination.ip": check_subnet,
    "destination.port": _check_port_text,
    "source.namespace": _check_expression,
    "source.principal": _check_expression,
    "source.serviceAccount": _check_account,
    "source.trustDomain": _check_wildcard,
    "request.auth.principal": None,
    "request.auth.audiences": None,
    "request.auth.presenter": None,
    "connection.sni": None,
}
"""The keys that need no brackets, each with the check of its values."""
