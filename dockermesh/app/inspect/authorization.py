"""What a workload's RBAC filters say to a request, from proto JSON.

Invariant: three-valued, as `matching`: where a rule looks at what is not known (claims of a token,
another proxy's metadata), the outcome is unknown and says so.

Source: Envoy's RBAC filter: filters in their order, each with an action; ALLOW lets only what a
policy takes pass, DENY all but that. Shadow rules, which decide nothing, are left out.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from dockermesh.app.inspect.dump import Json
from dockermesh.app.inspect.matching import (
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
    for config in filters:
        if (
            not str(config.get("@type", "")).endswith((_HTTP_RBAC, _TCP_RBAC))
            or "rules" not in config
        ):
            continue
        rules = config["rules"]
        is_deny = rules.get("action") == "DENY"
        if rules.get("action") == "LOG":
            continue
        answers = {
            name: _policy(policy, request, caller)
            for name, policy in rules.get("policies", {}).items()
        }
        taken = next((name for name, answer in answers.items() if answer), "")
        maybe = next((name for name, answer in answers.items() if answer is None), "")
        if is_deny and taken:
            return Decision(False, taken)
        if not is_deny and not taken and not maybe:
            return Decision(False, "no ALLOW policy takes it")
        if maybe and not (taken and not is_deny):
            unsure = unsure or maybe
    return Decision(None, unsure) if unsure else Decision(True)


def _policy(policy: Json, request: Request, caller: Caller) -> Answer:
    permitted = either(_permission(p, request, caller) for p in policy.get("permissions", ()))
    identified = either(_principal(p, request, caller) for p in policy.get("principals", ()))
    unknown = [None] if "condition" in policy or "checked_condition" in policy else []
    return both([permitted, identified, *unknown])


def _permission(rule: Json, request: Request, caller: Caller) -> Answer:
    for kind, value in rule.items():
        match kind:
            case "any":
                return True
            case "and_rules":
                return both(_permission(r, request, caller) for r in value.get("rules", ()))
            case "or_rules":
                return either(_permission(r, request, caller) for r in value.get("rules", ()))
            case "not_rule":
                return negated(_permission(value, request, caller))
            case "header":
                return header_matches(value, request)
            case "url_path":
                return text_matches(value.get("path", {}), request.plain_path)
            case "destination_port":
                return int(value) == caller.port
            case "requested_server_name":
                return text_matches(value, caller.server_name)
    return None


def _principal(rule: Json, request: Request, caller: Caller) -> Answer:
    for kind, value in rule.items():
        match kind:
            case "any":
                return True
            case "and_ids":
                return both(_principal(r, request, caller) for r in value.get("ids", ()))
            case "or_ids":
                return either(_principal(r, request, caller) for r in value.get("ids", ()))
            case "not_id":
                return negated(_principal(value, request, caller))
            case "header":
                return header_matches(value, request)
            case "url_path":
                return text_matches(value.get("path", {}), request.plain_path)
            case "authenticated":
                return _authenticated(value, caller)
            case "direct_remote_ip" | "remote_ip" | "source_ip":
                return _is_within(value, caller.address)
    return None


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
