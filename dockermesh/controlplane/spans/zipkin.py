"""Spans as Zipkin's JSON (version 2) has them: what of a report is kept, and what is refused.

Invariant: what comes out has the known fields alone, each of its type and of bounded length,
whatever a proxy sent. Source: https://zipkin.io/zipkin-api/zipkin2-api.yaml
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Span = dict[str, Any]
SPANS_PATH = "/api/v2/spans"

_TRACE_ID = re.compile(r"[0-9a-f]{16}(?:[0-9a-f]{16})?")
_SPAN_ID = re.compile(r"[0-9a-f]{16}")
_KINDS = frozenset({"CLIENT", "SERVER", "PRODUCER", "CONSUMER"})
_MOST_TAGS = 64
_LONGEST = 1024
_LATEST_US = 1 << 62
_PORTS = range(1, 1 << 16)


class NotSpans(ValueError):
    """A report that is no list of spans."""


def read_spans(body: bytes) -> tuple[list[Span], int]:
    """The spans of a report, and how many of its entries are none. Raises NotSpans."""
    try:
        # Bytes are of whatever form of Unicode they seem to be; of deep ones Python gives up.
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise NotSpans("this is not JSON") from error
    if not isinstance(found, list):
        raise NotSpans("this is not a list of spans")

    spans = [span for entry in found if (span := _span(entry)) is not None]
    return spans, len(found) - len(spans)


def _span(entry: Any) -> Span | None:
    if not isinstance(entry, dict):
        return None
    trace, own, parent = entry.get("traceId"), entry.get("id"), entry.get("parentId")
    start, duration = entry.get("timestamp"), entry.get("duration", 0)
    if not _matches(_TRACE_ID, trace) or not _matches(_SPAN_ID, own):
        return None
    if not _is_count(start) or not _is_count(duration):
        return None

    span: Span = {
        "traceId": trace,
        "id": own,
        "name": _text(entry.get("name")),
        "timestamp": start,
        "duration": duration,
        "tags": _tags(entry.get("tags")),
    }
    if _matches(_SPAN_ID, parent):
        span["parentId"] = parent
    if entry.get("kind") in _KINDS:
        span["kind"] = entry["kind"]
    for side in ("localEndpoint", "remoteEndpoint"):
        if endpoint := _endpoint(entry.get(side)):
            span[side] = endpoint
    return span


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LATEST_US


def _text(value: Any) -> str:
    # What cannot be written as UTF-8 could not be told to anybody.
    text = value[:_LONGEST] if isinstance(value, str) else ""
    return text.encode("utf-8", "replace").decode()


def _tags(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        return {}
    texts = (item for item in value.items() if isinstance(item[1], str))
    return {_text(name): _text(text) for name, text in list(texts)[:_MOST_TAGS] if name}


def _endpoint(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {}
    found: dict[str, Any] = {
        name: text[:64]
        for name in ("serviceName", "ipv4", "ipv6")
        if (text := _text(value.get(name)))
    }
    port = value.get("port")
    if type(port) is int and port in _PORTS:
        found["port"] = port
    return found
