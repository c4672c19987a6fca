"""The RateLimits on the way of a request, read off a proxy's filters."""

from __future__ import annotations

from dockermesh.client.inspect.dump import Json
from dockermesh.translate.envoy.names import LIMIT_PREFIX


def limits_of(manager: Json) -> list[str]:
    """The limits that requests meet, `namespace/name/limit`; whether one counts a request, and has
    a token for it, is known to the proxy alone.
    """
    return [
        name + _how(entry)
        for entry in manager.get("http_filters", ())
        if entry.get("name", "").startswith(LIMIT_PREFIX)
        for name in _names(entry["name"].removeprefix(LIMIT_PREFIX))
    ]


def _names(text: str) -> list[str]:
    """A filter that asks the limiter is for several limits of a RateLimit."""
    resource, _, limits = text.rpartition("/")
    return [f"{resource}/{limit}" for limit in limits.split(",")]


def _how(entry: Json) -> str:
    is_global = "rate_limit_service" in entry.get("typed_config", {})
    words = [*(["global"] if is_global else ()), *_in_shadow(entry)]
    return f" ({', '.join(words)})" if words else ""


def _in_shadow(entry: Json) -> list[str]:
    enforced = entry.get("typed_config", {}).get("filter_enforced", {})
    # A share of 0 is not written.
    share = enforced.get("default_value", {}).get("numerator", 0)
    return [] if share else ["shadow"]
