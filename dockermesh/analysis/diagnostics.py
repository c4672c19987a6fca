"""Diagnostics: a code, the resource it is about, and where that is."""

from __future__ import annotations

from dataclasses import dataclass

from dockermesh.analysis.messages import Message, Severity
from dockermesh.analysis.objects import Item


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `resource` is `Kind namespace/name`; `line` is 0 where it is unknown."""

    code: str
    level: Severity
    resource: str
    file: str
    line: int
    message: str
    namespace: str = ""

    def to_dict(self) -> dict[str, str | int]:
        """A JSON object."""
        return {
            "code": self.code,
            "level": self.level.value,
            "resource": self.resource,
            "file": self.file,
            "line": self.line,
            "message": self.message,
        }

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line and self.file else self.file
        about = f"{self.resource} {place}".strip()
        return f"{self.level.value} [{self.code}] ({about}) {self.message}"


def found(
    item: Item,
    message: Message,
    *arguments: object,
    at: tuple[str | int, ...] = ("metadata", "name"),
) -> Diagnostic:
    """A finding about an object; `at` is the field whose line is given."""
    return Diagnostic(
        code=message.code,
        level=message.level,
        resource=item.title,
        file=item.file,
        line=item.line_at(*at),
        message=message.text.format(*arguments),
        namespace=item.name if item.kind == "Namespace" else item.namespace,
    )
