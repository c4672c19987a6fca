"""Containers as the engine lists them, which is less than `inspect` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def name_of(summary: Mapping[str, Any]) -> str:
    """The name of a listed container; empty for one that is being removed."""
    return next((n.lstrip("/") for n in summary.get("Names") or () if n), "")


def names_of(summaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of listed containers, in order."""
    return sorted(filter(None, map(name_of, summaries)))
