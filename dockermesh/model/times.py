"""Times as texts: RFC 3339 in UTC and in whole seconds, as Kubernetes writes them.

Invariant: such texts are ordered as their times are.
"""

from __future__ import annotations

from datetime import UTC, datetime


def time_text(moment: datetime) -> str:
    """`2026-11-29T06:18:06Z`; a moment without a time zone is taken as UTC."""
    utc = moment.astimezone(UTC) if moment.tzinfo is not None else moment
    return utc.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime | None:
    """The moment that a text says, with its time zone (UTC if it has none); None if it says
    none.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
