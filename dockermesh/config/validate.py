"""Offline validation: files in, findings out."""

from __future__ import annotations

from collections.abc import Iterable

from dockermesh.config.documents import Reading, read_text
from dockermesh.config.findings import Finding, Level
from dockermesh.config.resource import DEFAULT_NAMESPACE


def validate_documents(
    sources: Iterable[tuple[str, str | bytes]], namespace: str = DEFAULT_NAMESPACE
) -> tuple[Reading, ...]:
    """One reading for each source, a pair of a file's name and its text.

    What is only visible across sources is reported where it is met second: a resource given twice.
    """
    seen: dict[tuple[str, str, str], str] = {}
    readings = []
    for file, text in sources:
        reading = read_text(text, file, namespace)
        extra = []
        for resource in reading.resources:
            identity = (resource.kind, resource.namespace, resource.name)
            if identity in seen:
                message = f"is given twice, first at {seen[identity]}; the last one counts"
                line = resource.location.line
                extra.append(
                    Finding(str(resource), file, line, "metadata.name", Level.WARNING, message)
                )
            seen[identity] = str(resource.location)
        if not reading.resources and not reading.findings:
            extra.append(Finding("", file, 0, "", Level.WARNING, "there is no resource in it"))
        readings.append(Reading(reading.resources, (*reading.findings, *extra)))
    return tuple(readings)
