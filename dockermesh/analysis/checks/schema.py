"""What validation says, under Istio's codes. Source: `pkg/config/analysis/analyzers/schema`."""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.analysis.context import Context
from dockermesh.analysis.diagnostics import Diagnostic
from dockermesh.analysis.messages import (
    BY_CODE,
    GIVEN_TWICE,
    INVALID_REGEXP,
    SCHEMA_ERROR,
    SCHEMA_WARNING,
    UNREADABLE,
)
from dockermesh.config.findings import Finding


def validation(context: Context) -> Iterator[Diagnostic]:
    """Every finding of validation, errors and warnings."""
    for finding in context.findings:
        default = SCHEMA_ERROR if finding.is_error else SCHEMA_WARNING
        message = BY_CODE.get(finding.code, default) if finding.resource else UNREADABLE
        text = f"{finding.field}: {finding.message}" if finding.field else finding.message
        yield Diagnostic(
            message.code,
            message.level,
            finding.resource,
            finding.file,
            finding.line,
            message.text.format(text),
            _namespace(finding),
        )


def regular_expressions(context: Context) -> Iterator[Diagnostic]:
    """Expressions of VirtualServices that RE2 refuses."""
    for finding in context.findings:
        if (
            finding.is_error
            and finding.field.endswith(".regex")
            and finding.resource.startswith("VirtualService ")
        ):
            where = finding.field.removesuffix(".regex").rpartition(".")[2]
            text = INVALID_REGEXP.text.format(where, finding.message)
            yield Diagnostic(
                INVALID_REGEXP.code,
                INVALID_REGEXP.level,
                finding.resource,
                finding.file,
                finding.line,
                text,
                _namespace(finding),
            )


def given_twice(context: Context) -> Iterator[Diagnostic]:
    """Istio's resources that several documents describe."""
    from dockermesh.analysis.diagnostics import found

    seen: dict[tuple[str, str, str], str] = {}
    for item in context.given:
        if item.spec is None:
            continue
        key = (item.kind, item.namespace, item.name)
        if key in seen:
            yield found(item, GIVEN_TWICE, seen[key])
        seen.setdefault(key, f"{item.file}:{item.line}")


def _namespace(finding: Finding) -> str:
    name = finding.resource.partition(" ")[2]
    return name.partition("/")[0] if "/" in name else ""
