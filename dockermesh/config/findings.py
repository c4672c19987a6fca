"""Findings about a document, and the cursor that rules use to say where they found them.

A rule gets a `Cursor` and moves it along (`at / "http" / 0 / "route"`); problems are kept in the
order found.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How bad it is: an error makes the resource invalid, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one field of one resource.

    `resource` is `Kind namespace/name`, `field` a path such as `spec.http[0].route[1].weight`;
    `line` is 0 if unknown. `code` is what `dockermesh analyze` calls it, where it has a name of its
    own.
    """

    resource: str
    file: str
    line: int
    field: str
    level: Level
    message: str
    code: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the resource is invalid because of it."""
        return self.level is Level.ERROR

    def to_dict(self) -> dict[str, str | int]:
        """A JSON object."""
        return {key: value for key, value in asdict(self).items() if key != "code"}

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [place, self.level.value, self.resource, self.field, self.message]
        return ": ".join(part for part in parts if part)


Path = tuple[str | int, ...]


def render_path(path: Path) -> str:
    """`("spec", "http", 0)` as `spec.http[0]`; keys that are no plain words are quoted in
    brackets.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part and all(c.isalnum() or c in "_-" for c in part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


@dataclass(frozen=True, slots=True)
class Problem:
    """A finding before its document is known."""

    path: Path
    level: Level
    message: str
    code: str = ""


@dataclass(slots=True)
class Problems:
    """All problems of one document."""

    found: list[Problem] = field(default_factory=list)

    def at(self, *path: str | int) -> Cursor:
        """The cursor at `path`."""
        return Cursor(self, path)


class Touched:
    """The places of errors, with all that is above and below them."""

    def __init__(self, problems: list[Problem]) -> None:
        self._at = {problem.path for problem in problems if problem.level is Level.ERROR}
        self._above = {path[:length] for path in self._at for length in range(len(path))}

    def __contains__(self, path: Path) -> bool:
        return path in self._above or any(
            path[:length] in self._at for length in range(len(path) + 1)
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a document where problems can be reported."""

    problems: Problems
    path: Path

    def __truediv__(self, part: str | int) -> Cursor:
        return Cursor(self.problems, (*self.path, part))

    def error(self, message: str) -> None:
        """Say that the resource is invalid."""
        self.problems.found.append(Problem(self.path, Level.ERROR, message))

    def warn(self, message: str, code: str = "") -> None:
        """Say that the resource is valid but doubtful; `code` as in `Finding`."""
        self.problems.found.append(Problem(self.path, Level.WARNING, message, code))
