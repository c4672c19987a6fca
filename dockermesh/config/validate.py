"""Offline validation: files in, findings out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

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
                message = (
                    f"is given twice, first at {seen[identity]}; the last one counts"
                )
                twice = Finding(Level.WARNING, message, ("metadata", "name"))
                extra.append(
                    replace(
                        twice,
                        resource=str(resource),
                        file=file,
                        line=resource.location.line,
                    )
                )
            # The last one counts when the files are applied in turn.
            seen[identity] = str(resource.location)
        if not reading.resources and not reading.findings:
            extra.append(
                Finding(Level.WARNING, "there is no resource in it", file=file)
            )
        readings.append(Reading(reading.resources, (*reading.findings, *extra)))

    return tuple(readings)
