"""Who calls whom as a picture: columns from those whom nobody calls to those who call nobody.

The layout is the usual one of layers: a caller stands left of whom it calls, and in each column
what is called by neighbours stands near them. Arrows back, of circles, go below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from dockermesh.client.traffic.graph import caption, colour
from dockermesh.client.traffic.stats import Line

_HIGH, _GAP_Y, _GAP_X, _MARGIN, _CHARACTER = 40, 36, 230, 24, 8.0
_PASSES = 8
_BEND = "\0"
"""How the name begins of a place where an arrow crosses a column."""


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float
    width: float

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width, self.y + _HIGH / 2

    @property
    def left(self) -> tuple[float, float]:
        return self.x, self.y + _HIGH / 2


def svg(edges: Sequence[Line]) -> str:
    """The picture; nothing in it is loaded from elsewhere."""
    layers = _layers(edges)
    ways = {(e.source, e.name): _way(e, layers) for e in edges}
    boxes = _boxes(_columns(layers, ways.values()))
    arrows = [
        _arrow(edge, [boxes[n] for n in ways[edge.source, edge.name]]) for edge in edges
    ]
    width = max((b.x + b.width for b in boxes.values()), default=0) + _MARGIN
    height = max((b.y for b in boxes.values()), default=0) + 2 * _HIGH + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        *(path for path, _ in arrows),
        *(
            _node(name, box)
            for name, box in boxes.items()
            if not name.startswith(_BEND)
        ),
        *(label for _, label in arrows),
        "</svg>",
    ]
    return "\n".join(parts)


def _way(edge: Line, layers: dict[str, int]) -> list[str]:
    """What an arrow goes through: it has a place of its own in each column that it crosses."""
    first, last = layers[edge.source], layers[edge.name]
    bends = [
        f"{_BEND}{edge.source}{_BEND}{edge.name}{_BEND}{n}"
        for n in range(first + 1, last)
    ]
    layers.update(zip(bends, range(first + 1, last), strict=True))
    return [edge.source, *bends, edge.name]


def _layers(edges: Sequence[Line]) -> dict[str, int]:
    """The column of each name: one more than that of the farthest caller, circles left aside."""
    names = list(dict.fromkeys(n for e in edges for n in (e.source, e.name)))
    called: dict[str, list[str]] = {name: [] for name in names}
    for edge in edges:
        called[edge.source].append(edge.name)
    forward = _forward(names, called)
    found = dict.fromkeys(names, 0)
    for _ in names:
        changed = False
        for source, name in forward:
            if found[name] <= found[source]:
                found[name] = found[source] + 1
                changed = True
        if not changed:
            break
    return found


def _forward(
    names: Sequence[str], called: Mapping[str, Sequence[str]]
) -> list[tuple[str, str]]:
    """All arrows but those that close a circle."""
    is_called = {name for own in called.values() for name in own}
    starts = sorted(names, key=lambda name: name in is_called)
    kept: list[tuple[str, str]] = []
    done: set[str] = set()
    for start in starts:
        if start in done:
            continue
        # Depth first, without recursion: a chain may be long.
        path, stack = [start], [iter(called[start])]
        on_path = {start}
        while stack:
            name = next(stack[-1], None)
            if name is None:
                stack.pop()
                on_path.discard(path[-1])
                done.add(path.pop())
            elif name not in on_path:
                kept.append((path[-1], name))
                if name not in done:
                    path.append(name)
                    on_path.add(name)
                    stack.append(iter(called[name]))
    return kept


def _columns(
    layers: Mapping[str, int], ways: Iterable[Sequence[str]]
) -> list[list[str]]:
    """The names of each column, those with neighbours in common near each other."""
    columns: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name, layer in layers.items():
        columns[layer].append(name)
    near: dict[str, list[str]] = {name: [] for name in layers}
    for way in ways:
        for one, other in pairwise(way):
            near[one].append(other)
            near[other].append(one)
    for turn in range(_PASSES):
        for column in columns if turn % 2 == 0 else reversed(columns):
            place = {n: i / len(c) for c in columns for i, n in enumerate(c)}
            middle = {
                n: sum(place[o] for o in near[n]) / len(near[n])
                if near[n]
                else place[n]
                for n in column
            }
            column.sort(key=lambda n: (middle[n], n))
    return columns


def _boxes(columns: Sequence[Sequence[str]]) -> dict[str, _Box]:
    tallest = max((len(column) for column in columns), default=0)
    found, x = {}, float(_MARGIN)
    for column in columns:
        longest = max(len(n) for n in column if not n.startswith(_BEND))
        width = longest * _CHARACTER + 20
        top = _MARGIN + (tallest - len(column)) * (_HIGH + _GAP_Y) / 2
        for number, name in enumerate(column):
            found[name] = _Box(x, top + number * (_HIGH + _GAP_Y), width)
        x += width + _GAP_X
    return found


def _arrow(edge: Line, way: Sequence[_Box]) -> tuple[str, str]:
    """The arrow, and what it says."""
    (x1, y1), (x2, y2) = way[0].right, way[-1].left
    if x2 > x1:
        path = f"M{x1:.0f},{y1:.0f}" + "".join(_curve(a, b) for a, b in pairwise(way))
        at = ((x1 + way[1].x) / 2, (y1 + way[1].left[1]) / 2 - 5)
    else:
        low = max(y1, y2) + _HIGH
        path = (
            f"M{x1:.0f},{y1:.0f} C{x1 + 60:.0f},{low:.0f} {x2 - 60:.0f},{low:.0f}"
            f" {x2:.0f},{y2:.0f}"
        )
        at = ((x1 + x2) / 2, low - 4)
    stroke = colour(edge)
    tip = f"M{x2 - 8:.0f},{y2 - 4:.0f} L{x2:.0f},{y2:.0f} L{x2 - 8:.0f},{y2 + 4:.0f}"
    text = escape(caption(edge))
    place = f'x="{at[0]:.0f}" y="{at[1]:.0f}" text-anchor="middle" font-size="11"'
    return (
        f'<path d="{path} {tip}" fill="none" stroke="{stroke}" stroke-width="1.6"/>',
        f'<text {place} stroke="#ffffff" stroke-width="4" aria-hidden="true">{text}</text>'
        f'<text {place} fill="{stroke}">{text}</text>',
    )


def _curve(one: _Box, other: _Box) -> str:
    """From the right of one column to the left of the next, and across it if it goes on."""
    (x1, y1), (x2, y2) = one.right, other.left
    middle = f"{(x1 + x2) / 2:.0f}"
    across = f" L{x1:.0f},{y1:.0f}"
    return f"{across} C{middle},{y1:.0f} {middle},{y2:.0f} {x2:.0f},{y2:.0f}"


def _node(name: str, box: _Box) -> str:
    x, y = box.x + box.width / 2, box.y + _HIGH / 2 + 5
    return (
        f'<rect x="{box.x:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{_HIGH}" rx="6"'
        ' fill="#f4f6f8" stroke="#5b6570"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{escape(name)}</text>'
    )
