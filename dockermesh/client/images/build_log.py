"""What BuildKit, and the builder before it, write while they build: steps as they happen, and which
one failed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

_STEP = re.compile(r"^#(\d+) (\[[^\]]+\d+/\d+\] .+)$")
_OUTPUT = re.compile(r"^#(\d+) (?:\d+\.\d+ )?(.*)$")
_FAILED = re.compile(r"^#(\d+) ERROR:? (.*)$")
_OLD_STEP = re.compile(r"^(Step \d+/\d+ : .+)$")
_WIDTH = 100
_LAST = 8


def build_step(line: str) -> str:
    """The step that this line starts, cut to a line of a terminal; empty for any other line."""
    found = _STEP.match(line)
    text = found[2] if found else (found[1] if (found := _OLD_STEP.match(line)) else "")
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def build_failure(lines: Sequence[str]) -> str:
    """The failing step and its last words; else the last lines that tell of an error."""
    steps: dict[str, str] = {}
    said: dict[str, list[str]] = defaultdict(list)

    for line in lines:
        if failed := _FAILED.match(line):
            number, reason = failed[1], failed[2]
            last = said[number][-_LAST:]
            return "\n".join([steps.get(number, "a build step"), *last, reason])

        if step := _STEP.match(line):
            steps[step[1]] = build_step(line)
        elif output := _OUTPUT.match(line):
            said[output[1]].append(f"  {output[2]}")

    return _old_failure([line for line in lines if line.strip()])


def _old_failure(lines: Sequence[str]) -> str:
    at = [number for number, line in enumerate(lines) if _OLD_STEP.match(line)]
    step = [build_step(lines[at[-1]])] if at else []
    rest = lines[at[-1] + 1 :] if at else lines
    return (
        "\n".join([*step, *(f"  {line}" for line in rest[-_LAST:])])
        or "no reason was given"
    )
