"""A trace's tree as text, with a bar of time on each line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from dockermesh.client.traces.tree import Line, Tree, plain

Style = Callable[[str, str], str]
"""A text in a colour."""
_NARROWEST, _WIDEST = 60, 160
_LONGEST_BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def draw(tree: Tree, width: int, style: Style) -> Iterator[str]:
    """The lines of a tree, on a terminal so wide."""
    width = min(max(width, _NARROWEST), _WIDEST)
    when = datetime.fromtimestamp(tree.start / 1e6).astimezone()
    count, services = len(tree.lines), len(tree.services)
    spans = f"{count} span{'s' if count != 1 else ''} of {services}"
    head = (
        f"trace {plain(tree.trace_id)}  {when:%Y-%m-%d %H:%M:%S}.{when.microsecond // 1000:03d}"
        f"  {duration_text(tree.duration)}  {spans} service{'s' if services != 1 else ''}"
    )
    yield style(head, "bold") + ("" if tree.is_whole else "  (spans are missing)")

    outcomes = max((len(line.outcome) for line in tree.lines), default=0)
    times = max((len(duration_text(line.duration)) for line in tree.lines), default=0)
    bar = min(_LONGEST_BAR, width // 3)
    room = max(width - bar - outcomes - times - 6, 20)
    name = max((len(line.branch + line.service) for line in tree.lines), default=0)
    name = min(name, room // 2)
    what = min(room - name - 1, max((len(line.what) for line in tree.lines), default=0))

    for line in tree.lines:
        who = _fitted(line.branch + line.service, name)
        colour = "red" if line.is_error else "cyan"
        outcome = f"{line.outcome:<{outcomes}}"
        if line.is_error:
            outcome = style(outcome, colour)
        took = f"{duration_text(line.duration):>{times}}"
        bar_text = style(_bar(line, tree.duration, bar), colour)
        yield f"{who} {_fitted(line.what, what)}  {outcome}  {took}  {bar_text}".rstrip()


def duration_text(microseconds: int) -> str:
    """`870 us`, `34.2 ms`, `1.25 s`."""
    if microseconds < 1000:
        return f"{microseconds} us"
    if microseconds < 1_000_000:
        return f"{microseconds / 1000:.1f} ms"
    return f"{microseconds / 1e6:.2f} s"


def _fitted(text: str, width: int) -> str:
    return f"{text:<{width}}" if len(text) <= width else text[: width - 1] + "…"


def _bar(line: Line, whole: int, width: int) -> str:
    """When the span was, within the trace: at least a sliver."""
    if whole <= 0:
        return "▏"
    first = min(line.begin * width // whole, width - 1)
    eighths = max(round(line.duration * width * 8 / whole), 1)
    full, part = divmod(min(eighths, (width - first) * 8), 8)
    return " " * first + "█" * full + (_EIGHTHS[part] if part else "")
