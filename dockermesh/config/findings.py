"""Findings about a document, and the cursor that rules use to say where they found them.

There are three words for what is not as it should be:

- A **Finding** is a value that is reported: something wrong or noteworthy about a resource or a
  mesh. Rules, analyzers and checks return findings and go on, so that all are told at once.
- A **Mistake** (`loading.py`) is a place in a file that cannot be read, before anybody knows what
  resource is there. Who reads the file makes a finding of it.
- An **error** is an exception: what was asked for is not done. Those that a user can meet are
  `errors.DockermeshError`s, and `kubeapi.status.StatusError` for Kubernetes' clients.

A rule gets a `Cursor` and moves it along (`at / "http" / 0 / "route"`); findings are kept in the
order found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum

Path = tuple[str | int, ...]
UNKNOWN_FIELD = "UnknownField"
"""The code of findings about fields that do not exist."""
REQUIRED = "Required"
"""The code of findings about fields that must be there."""


class Level(StrEnum):
    """How bad it is: an error makes the resource invalid, a warning does not."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Level).index(self)


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with, or noteworthy about, a resource.

    `path` is the place within the resource; `code` what `dockermesh analyze` calls it, or one of
    the words of this module, where it has a name at all. `resource` is `Kind namespace/name`, and
    `line` is 0 where it is unknown; both, and the file, are empty until the document is known.
    """

    level: Level
    message: str
    path: Path = ()
    code: str = ""
    resource: str = ""
    file: str = ""
    line: int = 0

    @property
    def is_error(self) -> bool:
        """Whether the resource is invalid because of it."""
        return self.level is Level.ERROR

    @property
    def field(self) -> str:
        """The place as a text: `spec.http[0].route[1].weight`."""
        return render_path(self.path)

    def to_dict(self) -> dict[str, str | int]:
        """A JSON object."""
        return {
            "resource": self.resource,
            "file": self.file,
            "line": self.line,
            "field": self.field,
            "level": self.level.value,
            "message": self.message,
        }

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        parts = [place, self.level.value, self.resource, self.field, self.message]
        return ": ".join(part for part in parts if part)


def render_path(path: Path) -> str:
    """`("spec", "http", 0)` as `spec.http[0]`; keys that are no plain words are quoted in
    brackets.
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        # A key may hold anything; in brackets it can still be told from the path.
        elif part and all(c.isalnum() or c in "_-" for c in part):
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


@dataclass(slots=True)
class Findings:
    """All findings about one document."""

    found: list[Finding] = field(default_factory=list)

    def at(self, *path: str | int) -> Cursor:
        """The cursor at `path`."""
        return Cursor(self, path)


class Touched:
    """The places of errors, with all that is above and below them."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._at = {finding.path for finding in findings if finding.is_error}
        self._above = {
            path[:length] for path in self._at for length in range(len(path))
        }

    def __contains__(self, path: Path) -> bool:
        return path in self._above or any(
            path[:length] in self._at for length in range(len(path) + 1)
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a document about which something can be said."""

    findings: Findings
    path: Path

    def __truediv__(self, part: str | int) -> Cursor:
        return Cursor(self.findings, (*self.path, part))

    def error(self, message: str, code: str = "") -> None:
        """Say that the resource is invalid; `code` as in `Finding`."""
        self.findings.found.append(Finding(Level.ERROR, message, self.path, code))

    def missing(self, message: str = "is required") -> None:
        """Say that the resource is invalid, because nothing is here."""
        self.error(message, REQUIRED)

    def warn(self, message: str, code: str = "") -> None:
        """Say that the resource is valid but doubtful; `code` as in `Finding`."""
        self.findings.found.append(Finding(Level.WARNING, message, self.path, code))
