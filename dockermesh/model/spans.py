"""Spans as Zipkin's JSON has them, read the same way by the control plane and the shell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Span = Mapping[str, Any]


def service_of(span: Span) -> str:
    """The service whose proxy made the span; empty if nobody says."""
    named = span["tags"].get("istio.canonical_service")
    return str(named or span.get("localEndpoint", {}).get("serviceName") or "")


def is_error(span: Span) -> bool:
    """Whether it went wrong, as Envoy counts: an answer of 5xx or none."""
    return bool(span["tags"].get("error") == "true")


def extent(spans: Iterable[Span]) -> tuple[int, int]:
    """When the first of them began, and how long it is until the last ended, in microseconds."""
    listed = list(spans)
    start = min(span["timestamp"] for span in listed)
    end = max(span["timestamp"] + span["duration"] for span in listed)
    return start, end - start
