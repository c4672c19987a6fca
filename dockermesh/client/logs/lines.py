"""Lines of several containers: what each is, its place in time, and whether it is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import Any

from dockermesh.client.logs.access_line import read_access_line
from dockermesh.errors import UsageError

_TIME = re.compile(r"(.{19})(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", re.ASCII)
_CODE = re.compile(r"[0-9xX]{1,3}")
_SECOND = 10**9


@dataclass(frozen=True, slots=True)
class Source:
    """A container of a workload. `part` is `app` or `proxy`."""

    workload: str
    part: str
    container: str
    is_running: bool = True


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a container. `time` is when it was written, and for a request when that began, in
    nanoseconds; `written` is the former.
    """

    source: Source
    time: int
    text: str
    written: int
    access: Mapping[str, Any] | None = None

    @property
    def order(self) -> tuple[int, int, str]:
        """What lines are sorted by: of two hops that began at one time, the one that took longer
        is the outer one.
        """
        duration = (self.access or {}).get("duration")
        return (
            self.time,
            -duration if isinstance(duration, int) else 0,
            self.source.workload,
        )


def make_line(source: Source, stamp: str, text: str) -> Line:
    """The line of a container, by the engine's time for it."""
    written = nanoseconds(stamp)
    # An app's line that looks like it is nobody's access log.
    access = read_access_line(text) if source.part == "proxy" else None
    began = nanoseconds(str((access or {}).get("start_time") or ""))
    return Line(source, began or written, text, written, access)


def nanoseconds(stamp: str) -> int:
    """A time of RFC 3339 since 1970; 0 for anything else."""
    match = _TIME.fullmatch(stamp)
    if match is None:
        return 0
    try:
        whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError:
        return 0
    return int(whole.timestamp()) * _SECOND + int((match[2] or "0").ljust(9, "0")[:9])


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are asked for; conditions on requests leave out all that is no access log."""

    only_access: bool = False
    codes: tuple[str, ...] = ()
    path: str = ""
    request_id: str = ""

    def takes(self, line: Line) -> bool:
        """Whether the line is asked for."""
        if self.request_id and self.request_id not in line.text:
            return False
        if not (self.only_access or self.codes or self.path):
            return True
        access = line.access
        if access is None:
            return False
        return self._has_code(access) and self._has_path(access)

    def _has_code(self, access: Mapping[str, Any]) -> bool:
        code = str(access.get("response_code", ""))
        return not self.codes or any(fnmatchcase(code, c) for c in self.codes)

    def _has_path(self, access: Mapping[str, Any]) -> bool:
        whole = str(access.get("path") or "")
        return not self.path or any(
            fnmatchcase(form, self.path) for form in (whole, whole.partition("?")[0])
        )


def parse_codes(text: str) -> tuple[str, ...]:
    """`5xx,404` as patterns. Raises UsageError."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if not _CODE.fullmatch(part):
            raise UsageError(
                f"--code: {part!r} is no status code",
                fix="for example 404, 5xx or 4xx,5xx",
            )
        found.append(part.lower().replace("x", "?"))
    return tuple(found)
