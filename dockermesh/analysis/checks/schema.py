"""What validation says, under Istio's codes. Source: `pkg/config/analysis/analyzers/schema`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dockermesh.analysis.context import Context
from dockermesh.analysis.findings import found
from dockermesh.analysis.messages import (
    BY_CODE,
    GIVEN_TWICE,
    INVALID_REGEXP,
    SCHEMA_ERROR,
    SCHEMA_WARNING,
    UNREADABLE,
    Message,
)
from dockermesh.config.findings import Finding, render_path


def validation(context: Context) -> Iterator[Finding]:
    """Every finding of validation, errors and warnings."""
    for finding in context.findings:
        default = SCHEMA_ERROR if finding.is_error else SCHEMA_WARNING
        # Without a resource it is a mistake in the file.
        message = BY_CODE.get(finding.code, default) if finding.resource else UNREADABLE
        text = (
            f"{finding.field}: {finding.message}" if finding.field else finding.message
        )
        yield _under(message, finding, text)


def regular_expressions(context: Context) -> Iterator[Finding]:
    """Expressions of VirtualServices that RE2 refuses."""
    for finding in context.findings:
        is_about_one = finding.is_error and finding.path[-1:] == ("regex",)
        if is_about_one and finding.resource.startswith("VirtualService "):
            where = render_path(finding.path[:-1]).rpartition(".")[2]
            yield _under(INVALID_REGEXP, finding, where, finding.message)


def given_twice(context: Context) -> Iterator[Finding]:
    """Istio's resources that several documents describe."""
    seen: dict[tuple[str, str, str], str] = {}
    for item in context.given:
        if item.spec is None:
            continue
        key = (item.kind, item.namespace, item.name)
        if key in seen:
            yield found(item, GIVEN_TWICE, seen[key])
        seen.setdefault(key, f"{item.file}:{item.line}")


def _under(message: Message, finding: Finding, *arguments: str) -> Finding:
    """What validation found, under a code of analysis."""
    return replace(
        finding,
        code=message.code,
        level=message.level,
        message=message.text.format(*arguments),
    )
