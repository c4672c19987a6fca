"""What is told of valid resources that have no effect."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why something has no effect, as conditions of resources say it."""

    CONFLICTED = "Conflicted"
    REFERENCE_NOT_FOUND = "ReferenceNotFound"
    NOT_TRANSLATED = "NotTranslated"
    PORT_UNAVAILABLE = "PortUnavailable"
    NO_WORKLOADS = "NoWorkloads"
    NOT_COUNTED = "NotCounted"


@dataclass(frozen=True, slots=True)
class ResourceFinding:
    """What has no effect, in the resource `Kind namespace/name`."""

    resource: str
    reason: Reason
    message: str
