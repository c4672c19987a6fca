"""Who calls whom as text, DOT, Mermaid and JSON; `drawing` has the picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dockermesh.client.traffic.stats import Grade, Line

_COLOURS = {Grade.GOOD: "#2e7d32", Grade.POOR: "#b26a00", Grade.BAD: "#c62828"}
_GREY = "#8a8f98"


def colour(line: Line) -> str:
    """Green, amber or red, by the share of requests that were answered; grey without requests."""
    return _COLOURS[line.grade] if line.grade is not None else _GREY


def caption(line: Line) -> str:
    """What an arrow says."""
    if not line.recent.requests:
        moved = line.total.sent + line.total.received
        if moved and not line.total.requests:
            return f"{bytes_text(line.bytes_rate)}/s"
        return f"{line.total.requests} in all"
    said = f"{line.rate:.1f}/s"
    slow = line.recent.quantile(0.99)
    if line.recent.failures:
        said += f" {100 * (1 - (line.success or 0)):.1f}% failed"
    return said if slow is None else f"{said} p99 {slow:.0f} ms"


def bytes_text(number: float) -> str:
    """Bytes in a unit that leaves few digits."""
    for unit in ("B", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} GiB"


def text(edges: Sequence[Line]) -> str:
    """A paragraph for each caller."""
    found: list[str] = []
    for source in dict.fromkeys(edge.source for edge in edges):
        found.append(source)
        own = [edge for edge in edges if edge.source == source]
        width = max(len(edge.name) for edge in own)
        for number, edge in enumerate(own, 1):
            branch = "└─>" if number == len(own) else "├─>"
            found.append(f"  {branch} {edge.name:<{width}}  {caption(edge)}")
    return "\n".join(found)


def dot(edges: Sequence[Line]) -> str:
    """For Graphviz."""
    rows = [
        f"  {json.dumps(e.source)} -> {json.dumps(e.name)}"
        f" [label={json.dumps(caption(e))}, color={json.dumps(colour(e))}];"
        for e in edges
    ]
    head = ["digraph mesh {", "  rankdir=LR;", "  node [shape=box, style=rounded];"]
    return "\n".join([*head, *rows, "}"])


def mermaid(edges: Sequence[Line]) -> str:
    """For Markdown."""
    names = dict.fromkeys(name for edge in edges for name in (edge.source, edge.name))
    ids = {name: f"n{number}" for number, name in enumerate(names)}
    nodes = [f'  {ids[name]}["{_quoted(name)}"]' for name in names]
    arrows = [
        f'  {ids[e.source]} -->|"{_quoted(caption(e))}"| {ids[e.name]}' for e in edges
    ]
    styles = [
        f"  linkStyle {number} stroke:{colour(edge)}"
        for number, edge in enumerate(edges)
    ]
    return "\n".join(["graph LR", *nodes, *arrows, *styles])


def _quoted(name: str) -> str:
    return name.replace('"', "#quot;")


def data(edges: Sequence[Line]) -> dict[str, Any]:
    """As JSON has it."""
    names = dict.fromkeys(name for edge in edges for name in (edge.source, edge.name))
    return {"nodes": list(names), "edges": [edge.to_dict() for edge in edges]}
