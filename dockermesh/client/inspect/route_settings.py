"""What a route says beside where it leads: timeout, retries, faults, mirrors, rewrites."""

from __future__ import annotations

from dockermesh.client.inspect.dump import Json

_FAULT = "envoy.filters.http.fault"
_ALL = 100.0
_GRPC_AS_HTTP = {
    "CANCELLED": 499,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "UNAUTHENTICATED": 401,
}


def settings_of(route: Json) -> Json:
    """Timeout, retries, faults, mirrors and rewrites, as JSON."""
    action = route.get("route", {})
    # Envoy's default for a route that says nothing; 0s is none at all.
    timeout = str(action.get("timeout", "15s"))
    found: Json = {"timeout": "" if timeout == "0s" else timeout}
    retry = action.get("retry_policy")

    if retry:
        found["retries"] = {
            "attempts": retry.get("num_retries", 1),
            "on": retry.get("retry_on", ""),
            "per_try_timeout": retry.get("per_try_timeout", ""),
        }

    fault = route.get("typed_per_filter_config", {}).get(_FAULT, {})
    if "delay" in fault:
        delay = fault["delay"]
        found["delay"] = {
            "percent": percent(delay.get("percentage", {})),
            "seconds": delay.get("fixed_delay", ""),
        }

    if "abort" in fault:
        abort = fault["abort"]
        code = abort.get("http_status", abort.get("grpc_status", ""))
        found["abort"] = {
            "percent": percent(abort.get("percentage", {})),
            "status": code,
        }

    mirrors = action.get("request_mirror_policies", ())
    if mirrors:
        found["mirrors"] = [
            {
                "cluster": m.get("cluster", ""),
                "percent": percent(m.get("runtime_fraction", {}).get("default_value")),
            }
            for m in mirrors
        ]

    rewrites = {
        k: action[k]
        for k in ("prefix_rewrite", "regex_rewrite", "host_rewrite_literal")
        if k in action
    }
    return found | ({"rewrite": rewrites} if rewrites else {})


def percent(fraction: Json | None) -> float:
    """A `FractionalPercent` in percent; without one, all."""
    if fraction is None:
        return 100.0
    # HUNDRED is zero, and left out.
    scale = {"MILLION": 10_000, "TEN_THOUSAND": 100}.get(
        str(fraction.get("denominator", "HUNDRED")), 1
    )
    return float(fraction.get("numerator", 0)) / scale


def aborted_with(abort: Json | None) -> int:
    """The HTTP status that the fault answers every request with; 0 if it lets some through."""
    if abort is None or abort["percent"] != _ALL:
        return 0
    status = abort["status"]
    return status if isinstance(status, int) else _GRPC_AS_HTTP.get(status, 500)
