"""Rules of EnvoyFilter, as far as they can be told without Envoy's own types; those are checked by
translation.
"""

from __future__ import annotations

import re
from typing import Any

from dockermesh.config.api.envoy_filter import (
    ApplyTo,
    ConfigObjectMatch,
    ConfigPatch,
    EnvoyFilter,
    FilterMatch,
    PatchOperation,
)
from dockermesh.config.fields import camel_case
from dockermesh.config.findings import Cursor
from dockermesh.config.resource import Resource
from dockermesh.config.rules.regex import check_program
from dockermesh.config.rules.scope import check_targets, check_workload_selector, report

_OBJECTS = ("listener", "route_configuration", "cluster", "waypoint")
_MATCHED_BY = {
    ApplyTo.LISTENER: "listener",
    ApplyTo.FILTER_CHAIN: "listener",
    ApplyTo.NETWORK_FILTER: "listener",
    ApplyTo.HTTP_FILTER: "listener",
    ApplyTo.ROUTE_CONFIGURATION: "routeConfiguration",
    ApplyTo.VIRTUAL_HOST: "routeConfiguration",
    ApplyTo.HTTP_ROUTE: "routeConfiguration",
    ApplyTo.CLUSTER: "cluster",
}
"""What a patch may look for, by what it is applied to."""
_CONNECTION_MANAGERS = (
    "envoy.filters.network.http_connection_manager",
    "envoy.http_connection_manager",
)
_FORMER_API = re.compile(
    r"envoy\.(?:api|config|type|service|data|admin)\.(?:[a-z0-9_.]+\.)?v2(?:alpha\d*)?\."
)
_RENAMED = {
    "envoy.buffer": "envoy.filters.http.buffer",
    "envoy.cors": "envoy.filters.http.cors",
    "envoy.ext_authz": "envoy.filters.http.ext_authz",
    "envoy.fault": "envoy.filters.http.fault",
    "envoy.grpc_web": "envoy.filters.http.grpc_web",
    "envoy.http_connection_manager": "envoy.filters.network.http_connection_manager",
    "envoy.lua": "envoy.filters.http.lua",
    "envoy.mongo_proxy": "envoy.filters.network.mongo_proxy",
    "envoy.rate_limit": "envoy.filters.http.ratelimit",
    "envoy.redis_proxy": "envoy.filters.network.redis_proxy",
    "envoy.router": "envoy.filters.http.router",
    "envoy.tcp_proxy": "envoy.filters.network.tcp_proxy",
}


def check_envoy_filter(resource: Resource[EnvoyFilter], at: Cursor) -> None:
    """All rules of an EnvoyFilter."""
    spec = resource.spec
    at.warn(
        "EnvoyFilter depends on details that may change with any release; prefer other resources if"
        " possible"
    )
    check_workload_selector(spec.workload_selector, at / "workloadSelector")
    check_targets(None, spec.target_refs, at)

    if spec.target_refs:
        (at / "targetRefs").warn(
            "selects nothing: there are no waypoints and no gateways of the Gateway API"
        )
    if spec.workload_selector is not None and spec.target_refs:
        (at / "targetRefs").error(
            "only one of workloadSelector and targetRefs may be set"
        )
    for index, patch in enumerate(spec.config_patches):
        _check_patch(patch, at / "configPatches" / index)


def _check_patch(entry: ConfigPatch, at: Cursor) -> None:
    if entry.apply_to is ApplyTo.INVALID:
        (at / "applyTo").missing()
    if entry.apply_to is ApplyTo.BOOTSTRAP:
        (at / "applyTo").warn(
            "BOOTSTRAP has no effect: the bootstrap is part of the pod's image"
        )
    if entry.patch is None:
        (at / "patch").missing()
    elif entry.patch.operation is PatchOperation.INVALID:
        (at / "patch" / "operation").missing()
    elif (
        entry.patch.operation is not PatchOperation.REMOVE and entry.patch.value is None
    ):
        (at / "patch" / "value").missing("is required for every operation but REMOVE")
    elif entry.patch.value is not None:
        report(at / "patch" / "value", _check_types(entry.patch.value))

    if entry.match is not None:
        _check_match(entry.match, entry.apply_to, at / "match")


def _check_types(value: Any) -> str:
    """Types of Envoy's former API are refused by name; whether others exist is known to translation
    only.
    """
    pending: list[Any] = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            # At any depth: what is packed may hold packed values itself.
            named = part.get("@type")
            if isinstance(named, str) and _FORMER_API.search(named):
                return f"referenced type {named[:120]!r} is of Envoy's v2 API, use its v3 form"
            pending.extend(part.values())
        elif isinstance(part, list):
            pending.extend(part)

    return ""


def _check_match(match: ConfigObjectMatch, apply_to: ApplyTo, at: Cursor) -> None:
    if match.proxy is not None and match.proxy.proxy_version:
        report(at / "proxy" / "proxyVersion", check_program(match.proxy.proxy_version))
    _check_object(match, apply_to, at)


def _check_object(match: ConfigObjectMatch, apply_to: ApplyTo, at: Cursor) -> None:
    given = next(
        (camel_case(name) for name in _OBJECTS if getattr(match, name) is not None), ""
    )
    allowed = _MATCHED_BY.get(apply_to, "")
    if given and allowed and given not in (allowed, "waypoint"):
        (at / given).error(f"{apply_to.value} can only be matched by {allowed}")

    # Of an object that is refused already, nothing more is said.
    if match.listener is not None and given == allowed:
        chain = match.listener.filter_chain
        if chain is not None and chain.filter is not None:
            place = at / "listener" / "filterChain" / "filter"
            _check_filter(chain.filter, apply_to, place)


def _check_filter(found: FilterMatch, apply_to: ApplyTo, at: Cursor) -> None:
    if apply_to in (ApplyTo.LISTENER, ApplyTo.FILTER_CHAIN):
        at.warn(f"has no effect with applyTo {apply_to.value}")
    if not found.name:
        (at / "name").missing()
    names = [(found.name, at / "name")]
    if found.sub_filter is not None:
        if apply_to is not ApplyTo.HTTP_FILTER:
            (at / "subFilter").error("can only be used with applyTo HTTP_FILTER")
        elif found.name not in _CONNECTION_MANAGERS:
            (at / "subFilter").error(f"needs a filter named {_CONNECTION_MANAGERS[0]}")
        elif not found.sub_filter.name:
            (at / "subFilter" / "name").missing()
        names.append((found.sub_filter.name, at / "subFilter" / "name"))

    for name, place in names:
        if name in _RENAMED:
            place.warn(f"deprecated filter name {name!r}, use {_RENAMED[name]!r}")
