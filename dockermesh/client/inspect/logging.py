"""Envoy's log levels as requests to its admin. Source: the admin page /logging."""

from __future__ import annotations

from urllib.parse import quote

from dockermesh.errors import UsageError

LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")


def logging_paths(wanted: str) -> list[str]:
    """What to POST for `debug` or `http:debug,rbac:info`; without a wish, what shows the levels.
    Raises UsageError.
    """
    if not wanted:
        return ["/logging"]
    made = []

    for part in wanted.split(","):
        logger, _, level = part.strip().rpartition(":")
        level = {"warn": "warning", "none": "off"}.get(level.lower(), level.lower())
        if level not in LEVELS:
            raise UsageError(
                f"there is no log level {level!r}", fix=f"one of: {', '.join(LEVELS)}"
            )
        name = "level" if logger in {"", "all", "level"} else quote(logger, safe="")
        made.append(f"/logging?{name}={level}")

    return made
