"""What a workload's RBAC filters say to a request, from proto JSON.

Invariant: three-valued, as `matching`: where a rule looks at what is not known (claims of a token,
another proxy's metadata), the outcome is unknown and says so.

Source: Envoy's RBAC filter: filters in their order, each with an action; ALLOW lets only what a
policy takes pass, DENY all but that. Shadow rules, which decide nothing, are left out.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.client.inspect.dump import Json
from dockermesh.client.inspect.matching import (
    Answer,
    Request,
    both,
    either,
    header_matches,
    negated,
    text_matches,
)

_HTTP_RBAC, _TCP_RBAC = "filters.http.rbac.v3.RBAC", "filters.network.rbac.v3.RBAC"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as the target sees it: `principal` is empty without mutual TLS."""

    principal: str = ""
    address: str = ""
    port: int = 0
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """`allowed` None: it depends on what is not known here. `by` names the policy that decided."""

    allowed: Answer
    by: str = ""


def decide(filters: list[Json], request: Request, caller: Caller) -> Decision:
    """What the RBAC filters of a chain (their `typed_config`) say, in their order."""
    unsure = ""

    for rules in filter(None, map(_enforced_rules, filters)):
        said = _Said(rules, request, caller)

        if rules.get("action") == "DENY":
            if said.taken_by:
                return Decision(False, said.taken_by)
            unsure = unsure or said.perhaps_by
            continue

        if not said.taken_by and not said.perhaps_by:
            return Decision(False, "no ALLOW policy takes it")
        if not said.taken_by:
            unsure = unsure or said.perhaps_by

    return Decision(None, unsure) if unsure else Decision(True)


def _enforced_rules(config: Json) -> Json | None:
    """The rules of an RBAC filter that decides something; None for every other filter."""
    is_rbac = str(config.get("@type", "")).endswith((_HTTP_RBAC, _TCP_RBAC))
    rules: Json | None = config.get("rules") if is_rbac else None

    # A filter with shadow rules alone has no `rules`; LOG marks requests and lets all pass.
    return rules if rules is not None and rules.get("action") != "LOG" else None


class _Said:
    """Which policies of one filter take a request, surely or perhaps; each the first by name."""

    def __init__(self, rules: Json, request: Request, caller: Caller) -> None:
        answers = {
            name: _policy(policy, request, caller)
            for name, policy in rules.get("policies", {}).items()
        }
        self.taken_by = next((name for name, answer in answers.items() if answer), "")
        self.perhaps_by = next(
            (name for name, answer in answers.items() if answer is None), ""
        )


def _policy(policy: Json, request: Request, caller: Caller) -> Answer:
    permitted = either(_rule(p, request, caller) for p in policy.get("permissions", ()))
    identified = either(_rule(p, request, caller) for p in policy.get("principals", ()))

    # A CEL condition is not evaluated here.
    unknown = [None] if "condition" in policy or "checked_condition" in policy else []
    return both([permitted, identified, *unknown])


def _rule(rule: Json, request: Request, caller: Caller) -> Answer:
    """A `Permission` or a `Principal`: a oneof, whose only key says what is compared."""
    for kind, value in rule.items():
        holds = _RULES.get(kind)
        if holds is not None:
            return holds(value, request, caller)
    return None


def _listed(value: Json) -> list[Json]:
    # Permissions have `rules`, principals `ids`.
    return list(value.get("rules") or value.get("ids") or ())


def _all_of(value: Json, request: Request, caller: Caller) -> Answer:
    return both(_rule(r, request, caller) for r in _listed(value))


def _any_of(value: Json, request: Request, caller: Caller) -> Answer:
    return either(_rule(r, request, caller) for r in _listed(value))


def _not(value: Json, request: Request, caller: Caller) -> Answer:
    return negated(_rule(value, request, caller))


def _authenticated(value: Json, caller: Caller) -> Answer:
    if not caller.principal:
        return False
    return (
        text_matches(value["principal_name"], caller.principal)
        if "principal_name" in value
        else True
    )


def _is_within(network: Json, address: str) -> Answer:
    if not address:
        return None
    try:
        found: Any = ipaddress.ip_network(
            f"{network['address_prefix']}/{network.get('prefix_len', 0)}", strict=False
        )
        return ipaddress.ip_address(address) in found
    except (ValueError, KeyError):
        return None


_RULES: Mapping[str, Callable[[Any, Request, Caller], Answer]] = {
    "any": lambda _value, _request, _caller: True,
    "and_rules": _all_of,
    "and_ids": _all_of,
    "or_rules": _any_of,
    "or_ids": _any_of,
    "not_rule": _not,
    "not_id": _not,
    "header": lambda value, request, _caller: header_matches(value, request),
    "url_path": lambda value, request, _caller: text_matches(
        value.get("path", {}), request.plain_path
    ),
    "destination_port": lambda value, _request, caller: int(value) == caller.port,
    "requested_server_name": lambda value, _request, caller: text_matches(
        value, caller.server_name
    ),
    "authenticated": lambda value, _request, caller: _authenticated(value, caller),
    "direct_remote_ip": lambda value, _request, caller: _is_within(
        value, caller.address
    ),
    "remote_ip": lambda value, _request, caller: _is_within(value, caller.address),
    "source_ip": lambda value, _request, caller: _is_within(value, caller.address),
}
"""What is understood of both, by the oneof's key; anything else is not known here."""
