"""A trace as the lines of a tree: who called whom, when, for how long, and how it ended.

Pure. Invariant: every span is one line, whatever its parents are: what a proxy dropped, or a client
made up, must not hide the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from dockermesh.model.spans import Span, extent, is_error, service_of


@dataclass(frozen=True, slots=True)
class Line:
    """A span at its place in the tree. Times are in microseconds; `begin` is since the trace's."""

    branch: str
    service: str
    what: str
    outcome: str
    is_error: bool
    begin: int
    duration: int


@dataclass(frozen=True, slots=True)
class Tree:
    """A trace; `start` is since 1970, in microseconds. `is_whole`: all spans have their parents."""

    trace_id: str
    start: int
    duration: int
    services: tuple[str, ...]
    is_whole: bool
    lines: tuple[Line, ...]


def tree_of(spans: list[Span]) -> Tree:
    """The tree of a trace's spans."""
    start, duration = extent(spans)
    known = {span["id"] for span in spans}
    children: dict[str, list[Span]] = defaultdict(list)
    for span in spans:
        parent = span.get("parentId", "")
        children[parent if parent in known and parent != span["id"] else ""].append(
            span
        )

    lines = [*_lines(children, start)]
    roots = children[""]
    return Tree(
        trace_id=max((span["traceId"] for span in spans), key=len),
        start=start,
        duration=duration,
        services=tuple(dict.fromkeys(map(_named, spans))),
        # The first has a parent where the client traces, too.
        is_whole=len(roots) == 1 and len(lines) == len(spans),
        lines=tuple(lines),
    )


def _named(span: Span) -> str:
    return service_of(span) or "?"


def _lines(children: Mapping[str, list[Span]], start: int) -> Iterator[Line]:
    # With a list of what is left, not by recursion: a trace may be a thousand deep.
    seen: set[str] = set()
    left = [(span, "", "") for span in reversed(children.get("", []))]
    while left:
        span, branch, under = left.pop()
        yield _line(span, branch, start)
        # Two spans of one id, or a circle, are made up.
        if span["id"] in seen:
            continue
        seen.add(span["id"])
        below = children.get(span["id"], [])
        for number, child in enumerate(reversed(below)):
            is_last = number == 0
            left.append(
                (
                    child,
                    under + ("└ " if is_last else "├ "),
                    under + ("  " if is_last else "│ "),
                )
            )


def _line(span: Span, branch: str, start: int) -> Line:
    tags = span["tags"]
    flags = tags.get("response_flags", "-")
    code = tags.get("http.status_code", "")
    grpc = tags.get("grpc.status_code", "")
    outcome = " ".join(
        part
        for part in (
            code,
            f"grpc {grpc}" if grpc else "",
            flags if flags != "-" else "",
        )
        if part
    )
    return Line(
        branch=branch,
        service=plain(_named(span)),
        what=plain(_what(span)),
        outcome=plain(outcome),
        is_error=is_error(span),
        begin=span["timestamp"] - start,
        duration=span["duration"],
    )


def _what(span: Span) -> str:
    tags = span["tags"]
    asked = " ".join(
        part
        for part in (tags.get("http.method", ""), _path(tags.get("http.url", "")))
        if part
    )
    if span.get("kind") != "CLIENT":
        return asked or str(span["name"])
    # That of a gateway says nothing of the request: the one above it does.
    return f"→ {_called(span)} {asked}".strip()


def _called(span: Span) -> str:
    """Whom a client's span calls: the first part of the host, by the cluster if one was chosen."""
    cluster = str(span["tags"].get("upstream_cluster", "")).rstrip(";")
    host = cluster.rpartition("|")[2] if cluster.startswith("outbound|") else ""
    named = host or str(span["name"]).partition("/")[0].partition(":")[0]
    return named.partition(".")[0]


def _path(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts.path + (f"?{parts.query}" if parts.query else "")


def plain(text: str) -> str:
    """The text without what a terminal would obey: paths and names are a client's choice."""
    return "".join(c if c.isprintable() else "�" for c in text)
