"""How one check of `doctor` ended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome; `fix` is the next step when it is not ok."""

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""
