"""The limits of `fields.py` applied to decoded values, and Go's durations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any

from dockermesh.config.fields import AtLeast, Length, Pattern, Range

# Both signs for micro are in use; Go's parser takes both.
_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,
    "\u03bcs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]{0,18})(?:\.([0-9]{0,18}))?(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_LONGEST = 2**63 - 1


def parse_duration(text: str) -> timedelta | str:
    """A duration as Go writes it (`1h30m`, `1.5s`, `300ms`, `0`), or what is wrong with it."""
    wrong = f"{text[:80]!r} is not a duration; write it as 300ms, 1.5s or 1h30m"
    rest, sign = (text[1:], -1) if text.startswith("-") else (text.removeprefix("+"), 1)
    if rest == "0":
        return timedelta(0)

    total = _nanoseconds(rest)
    if total is None:
        return wrong
    if total > _LONGEST:
        return f"{text[:80]!r} is longer than a duration can be"
    # Python's timedelta has microseconds; finer ones would be lost silently.
    if total % 1_000:
        return "only durations to millisecond precision are supported"

    return timedelta(microseconds=sign * total // 1_000)


def _nanoseconds(text: str) -> int | None:
    """The sum of a duration's parts; None if it is none."""
    total = end = 0
    while end < len(text):
        part = _PART.match(text, end)
        if part is None or not (part[1] or part[2]):
            return None
        unit, fraction = _NANOSECONDS[part[3]], part[2] or ""
        total += int(part[1] or "0") * unit
        # Cut, not rounded, as in Go.
        total += int(fraction or "0") * unit // 10 ** len(fraction)
        end = part.end()

    return total if text else None


def _range(limit: Range, value: float) -> str:
    if limit.low <= value <= limit.high:
        return ""
    high = "" if limit.high == float("inf") else f" and at most {_shown(limit.high)}"
    return f"must be at least {_shown(limit.low)}{high}, not {_shown(value)}"


def _shown(number: float) -> str:
    return (
        str(int(number))
        if abs(number) < 2**70 and number == int(number)
        else f"{number:g}"
    )


def _length(limit: Length, value: str | tuple[Any, ...] | Mapping[Any, Any]) -> str:
    if limit.low <= len(value) <= limit.high:
        return ""
    unit = "characters" if isinstance(value, str) else "entries"
    if len(value) < limit.low:
        return (
            "must not be empty"
            if limit.low == 1
            else f"must have at least {limit.low} {unit}"
        )
    return f"must have at most {limit.high} {unit}, not {len(value)}"


@cache
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def _pattern(limit: Pattern, value: str) -> str:
    return (
        ""
        if _compiled(limit.expression).fullmatch(value)
        else f"{value[:80]!r} must be {limit.meaning}"
    )


def _at_least(limit: AtLeast, value: timedelta) -> str:
    if value < limit.minimum:
        return (
            f"duration must be at least {limit.minimum / timedelta(milliseconds=1):g}ms"
        )
    if value % timedelta(milliseconds=1):
        return "only durations to millisecond precision are supported"
    return ""


CHECKS: Mapping[type, Callable[[Any, Any], str]] = {
    Range: _range,
    Length: _length,
    Pattern: _pattern,
    AtLeast: _at_least,
}
"""For each limit a function of the limit and a value; it returns what is wrong, or nothing."""
