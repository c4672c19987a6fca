"""Findings as `dockermesh analyze` makes and shows them: with a code each, in istioctl's words."""

from __future__ import annotations

from dockermesh.analysis.messages import Message
from dockermesh.analysis.objects import AnalyzedObject
from dockermesh.config.findings import Finding, Level, Path


def found(
    item: AnalyzedObject,
    message: Message,
    *arguments: object,
    at: Path = ("metadata", "name"),
) -> Finding:
    """A finding about an object; `at` is the field whose line is given."""
    return Finding(
        level=message.level,
        message=message.text.format(*arguments),
        path=at,
        code=message.code,
        resource=item.title,
        file=item.file,
        line=item.line_at(*at),
    )


def namespace_of(finding: Finding) -> str:
    """The namespace that a finding is about, which may be the object itself; else empty."""
    kind, _, name = finding.resource.partition(" ")
    namespace, slash, _ = name.rpartition("/")
    return namespace if slash else name if kind == "Namespace" else ""


def as_line(finding: Finding) -> str:
    """A finding as istioctl prints it."""
    place = (
        f"{finding.file}:{finding.line}"
        if finding.line and finding.file
        else finding.file
    )
    about = f"{finding.resource} {place}".strip()
    return f"{shown_level(finding.level)} [{finding.code}] ({about}) {finding.message}"


def shown_level(level: Level) -> str:
    """How bad it is, as istioctl writes it: `Error`, `Warning` or `Info`."""
    return level.value.capitalize()


def to_dict(finding: Finding) -> dict[str, str | int]:
    """A JSON object."""
    return {
        "code": finding.code,
        "level": shown_level(finding.level),
        "resource": finding.resource,
        "file": finding.file,
        "line": finding.line,
        "message": finding.message,
    }
