"""The times that `--since` takes, as Docker's does."""

from __future__ import annotations

import re
from datetime import datetime

from dockermesh.errors import UsageError

_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_WHOLE = re.compile(rf"(?:{_PART.pattern})+")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SECOND = 10**9


def parse_since(text: str, now: float) -> int:
    """`5m`, `1h30m`, a date or a Unix time, in nanoseconds since 1970; 0 for nothing. Raises
    UsageError.
    """
    if not text:
        return 0
    if _WHOLE.fullmatch(text):
        return max(int((now - _span(text)) * _SECOND), 0)
    try:
        moment = (
            float(text)
            if text.replace(".", "", 1).isdigit()
            else datetime.fromisoformat(text).timestamp()
        )
        return int(moment * _SECOND)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--since: {text!r} is no time",
            fix="for example 5m, 1h30m or 2026-01-31T12:00:00",
        ) from error


def parse_span(text: str, option: str) -> float:
    """`500ms` or `1m30s`, in seconds. Raises UsageError."""
    if not _WHOLE.fullmatch(text):
        raise UsageError(
            f"{option}: {text!r} is no time", fix="for example 500ms or 2s"
        )
    return _span(text)


def _span(text: str) -> float:
    return sum(float(n) * _SECONDS[unit] for n, unit in _PART.findall(text))
