"""Fields of old Istio releases, rewritten to what replaced them, each with a warning.

Keyed by the class whose raw mapping is rewritten. A rewrite never changes its input and leaves the
line numbers of what it keeps; the new field is at the place of the old one, so errors about its
value point there. Sources: istio/api's history and the release notes from 1.1 on; the meanings are
those Pilot 1.0.6 gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dockermesh.config.fields import camel_case
from dockermesh.config.findings import Cursor

DEPRECATED = "IST0002"
"""What `dockermesh analyze` calls the warnings."""
_Upgrade = Callable[[dict[str, Any], Cursor], dict[str, Any]]


def _get(raw: Mapping[str, Any], snake: str) -> tuple[str, Any]:
    """The name under which a field is given, in either spelling, and its value."""
    for name in (camel_case(snake), snake):
        if raw.get(name) is not None:
            return name, raw[name]
    return "", None


def _without(raw: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if key not in names}


def _percent(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    """`fault.*.percent: 50` is `percentage: {value: 50}`; when both are given, the new one
    counts.
    """
    percent = raw.get("percent")
    if percent is None:
        return raw
    (at / "percent").warn(
        "is no longer part of Istio's API; taken as percentage.value", DEPRECATED
    )
    rest = _without(raw, "percent")
    if raw.get("percentage") is None:
        rest["percentage"] = {"value": percent}
    return rest


def _http_route(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    raw = _mirror_percent(raw, at)
    raw = _append_headers(raw, at)
    name, value = _get(raw, "websocket_upgrade")
    if name:
        (at / name).warn(
            "has no effect: WebSocket upgrades are always allowed", DEPRECATED
        )
        if not isinstance(value, bool):
            (at / name).error("must be true or false")
        raw = _without(raw, name)
    return raw


def _mirror_percent(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    name, percent = _get(raw, "mirror_percent")
    if not name:
        return raw
    (at / name).warn(
        "is deprecated, use mirrorPercentage; taken as mirrorPercentage.value",
        DEPRECATED,
    )
    rest = _without(raw, name)
    if _get(raw, "mirror_percentage")[1] is None:
        rest["mirrorPercentage"] = {"value": percent}
    return rest


_HEADER_FIELDS = {
    "append_headers": ("request", "add"),
    "append_request_headers": ("request", "add"),
    "remove_request_headers": ("request", "remove"),
    "append_response_headers": ("response", "add"),
    "remove_response_headers": ("response", "remove"),
}


def _append_headers(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    """The flat header fields of 1.0 are operations within `headers`; they never override what is
    given there.
    """
    for snake, (side, operation) in _HEADER_FIELDS.items():
        name, value = _get(raw, snake)
        if not name:
            continue
        (at / name).warn(
            f"is no longer part of Istio's API; taken as headers.{side}.{operation}",
            DEPRECATED,
        )
        # The new place may be used beside the old one.
        headers = raw.get("headers") or {}
        operations = headers.get(side) or {} if isinstance(headers, dict) else None
        if not isinstance(operations, dict):
            return _without(raw, name)

        value = _beside(value, operations.get(operation))
        raw = _without(raw, name) | {
            "headers": {**headers, side: {**operations, operation: value}}
        }

    return raw


def _beside(old: Any, new: Any) -> Any:
    """What the former field says, with what stands in the new place; that wins."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **new}
    if isinstance(old, list) and isinstance(new, list):
        return [*new, *(value for value in old if value not in new)]
    return old


def _cors_policy(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    name, origins = _get(raw, "allow_origin")
    if not name:
        return raw

    (at / name).warn(
        "is deprecated, use allowOrigins; taken as exact matches", DEPRECATED
    )
    rest = _without(raw, name)
    if _get(raw, "allow_origins")[1] is None and isinstance(origins, list):
        rest["allowOrigins"] = [
            (
                # In 1.0 it stood for every origin; an exact `*` would fit none that a browser
                # sends.
                {"regex": ".*"}
                if origin == "*"
                else {"exact": origin}
                if isinstance(origin, str)
                else origin
            )
            for origin in origins
        ]

    return rest


def _outlier_detection(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    """1.0's `consecutiveErrors` counted gateway errors only."""
    raw = _http_outlier(raw, at)
    name, errors = _get(raw, "consecutive_errors")
    if not name:
        return raw

    (at / name).warn(
        "is deprecated, use consecutiveGatewayErrors, as which it is taken, or"
        " consecutive5xxErrors",
        DEPRECATED,
    )
    rest = _without(raw, name)
    if _get(raw, "consecutive_gateway_errors")[1] is None:
        rest["consecutiveGatewayErrors"] = errors
    return rest


def _http_outlier(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    """Before 1.0 the settings were inside `http`."""
    nested = raw.get("http")
    if not isinstance(nested, dict):
        return raw
    (at / "http").warn(
        "is no longer part of Istio's API; its fields are taken as outlierDetection's own",
        DEPRECATED,
    )
    return {**nested, **_without(raw, "http")}


def _load_balancer(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    if raw.get("simple") == "LEAST_CONN":
        (at / "simple").warn(
            "LEAST_CONN is deprecated, use LEAST_REQUEST; taken as that", DEPRECATED
        )
        # Envoy's name: it counts requests, not connections.
        raw = {**raw, "simple": "LEAST_REQUEST"}
    name, duration = _get(raw, "warmup_duration_secs")
    if name:
        (at / name).warn(
            "is deprecated, use warmup; taken as warmup.duration", DEPRECATED
        )
        if raw.get("warmup") is not None:
            (at / name).error("cannot be set together with warmup")
        raw = {"warmup": {"duration": duration}} | _without(raw, name)
    return raw


def _consistent_hash(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    name, size = _get(raw, "minimum_ring_size")
    if not name:
        return raw
    (at / name).warn(
        "is deprecated, use ringHash; taken as ringHash.minimumRingSize", DEPRECATED
    )
    if _get(raw, "ring_hash")[0] or raw.get("maglev") is not None:
        (at / name).error("cannot be set together with ringHash or maglev")
        return _without(raw, name)
    return _without(raw, name) | {"ringHash": {"minimumRingSize": size}}


def _port_selector(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    if raw.get("name") is None:
        return raw
    (at / "name").error(
        "selecting a port by its name is no longer part of Istio's API; use number"
    )
    return _without(raw, "name")


def _envoy_filter(raw: dict[str, Any], at: Cursor) -> dict[str, Any]:
    """`filters` named Envoy's v1 filters; there is no rewrite that would be right for all of
    them.
    """
    name, labels = _get(raw, "workload_labels")
    if name:
        (at / name).warn(
            "is no longer part of Istio's API; taken as workloadSelector.labels"
        )
        raw = {"workloadSelector": {"labels": labels}} | _without(raw, name)
    if raw.get("filters") is not None:
        (at / "filters").error(
            "is no longer part of Istio's API; write it as configPatches with applyTo HTTP_FILTER"
        )
        raw = _without(raw, "filters")
    return raw


UPGRADES: Mapping[str, _Upgrade] = {
    "FaultDelay": _percent,
    "FaultAbort": _percent,
    "HTTPRoute": _http_route,
    "HTTPRouteDestination": _append_headers,
    "CorsPolicy": _cors_policy,
    "OutlierDetection": _outlier_detection,
    "LoadBalancerSettings": _load_balancer,
    "ConsistentHashLB": _consistent_hash,
    "PortSelector": _port_selector,
    "EnvoyFilter": _envoy_filter,
}
"""For each class the function that rewrites its raw mapping."""
