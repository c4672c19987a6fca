"""Rules of RateLimitConfig, and the reading of its files.

Source: the README of `envoyproxy/ratelimit`.
"""

from __future__ import annotations

from collections.abc import Iterable

from dockermesh.config.api.rate_limit_config import (
    FileDescriptor,
    FileRate,
    LimitFile,
    RateLimitConfig,
)
from dockermesh.config.decode import decode
from dockermesh.config.findings import Cursor, Findings, Level, render_path
from dockermesh.config.loading import line_of, load_documents
from dockermesh.config.resource import Resource
from dockermesh.model.rate_limits import Per

UNITS = tuple(unit.name.lower() for unit in Per)
_DEEPEST = 16
_MOST = 10_000


def check_rate_limit_config(resource: Resource[RateLimitConfig], at: Cursor) -> None:
    """All rules of a RateLimitConfig."""
    domains: dict[str, str] = {}
    for name, text in resource.spec.files.items():
        place = at / "files" / name
        file = read_limit_file(text, place)
        if file is None:
            continue
        if file.domain in domains:
            place.error(
                f"domain {file.domain!r} is that of {domains[file.domain]}, too"
            )
        domains[file.domain] = name
    if not resource.spec.files and "spec" in resource.document:
        at.error("limits nothing: set files")


def read_limit_file(text: str, at: Cursor | None = None) -> LimitFile | None:
    """What a file says; what is wrong is reported. None if nothing can be read."""
    cursor = at or Findings().at()
    loaded = load_documents(text)
    if loaded.error is not None:
        cursor.error(f"line {loaded.error.line}: {loaded.error.message}")
        return None
    if len(loaded.documents) != 1:
        cursor.error("must be one document")
        return None

    (document,) = loaded.documents
    own = Findings()
    file = decode(LimitFile, document.data, own.at())
    if not own.found:
        if not file.domain:
            own.at("domain").error("must not be empty")
        _check_descriptors(file.descriptors, own.at("descriptors"), 1)
        if _count(file.descriptors) > _MOST:
            own.at("descriptors").error(f"are more than {_MOST}")
    for finding in own.found:
        place = render_path(finding.path)
        message = (
            f"line {line_of(document.data, finding.path)}: {place}: {finding.message}"
        )
        # A field of a later version of theirs is no reason to limit nothing.
        if finding.level is Level.ERROR:
            cursor.error(message)
        else:
            cursor.warn(message)
    return None if any(f.is_error for f in own.found) else file


def _count(descriptors: Iterable[FileDescriptor]) -> int:
    return sum(1 + _count(each.descriptors) for each in descriptors)


def _check_descriptors(
    descriptors: Iterable[FileDescriptor], at: Cursor, depth: int
) -> None:
    if depth > _DEEPEST:
        at.error(f"are more than {_DEEPEST} deep")
        return
    seen: set[tuple[str, str | None]] = set()
    for index, each in enumerate(descriptors):
        place = at / index
        if not each.key:
            (place / "key").error("must not be empty")
        if (each.key, each.value) in seen:
            place.error("is there already, with the same key and value")
        seen.add((each.key, each.value))
        if each.rate_limit is not None:
            _check_rate(each.rate_limit, place / "rate_limit")
        _check_descriptors(each.descriptors, place / "descriptors", depth + 1)


def _check_rate(rate: FileRate, at: Cursor) -> None:
    if rate.unlimited:
        if rate.unit or rate.requests_per_unit:
            at.error("must not say a unit or requests beside unlimited")
        return
    if rate.unit.lower() not in UNITS:
        (at / "unit").error(f"{rate.unit[:40]!r} is none of {', '.join(UNITS)}")
    if rate.name and any(each.name == rate.name for each in rate.replaces):
        (at / "replaces").error("names the limit itself")
