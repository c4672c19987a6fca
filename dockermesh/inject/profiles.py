"""Profiles, decided once: what `up` starts has none, what it only knows of keeps its own.

Invariant: Compose alone decides which profiles are enabled. Services that are not must stay in the
file, or they would be orphans, and `depends_on` of them would not load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_decided_profiles(
    project: Mapping[str, Any], inactive: frozenset[str]
) -> dict[str, Any]:
    """The project, in which all services but the inactive ones are started without a profile."""
    services = {
        name: service
        if name in inactive
        else {key: value for key, value in service.items() if key != "profiles"}
        for name, service in project["services"].items()
    }
    return {**project, "services": services}


def started(project: Mapping[str, Any]) -> dict[str, Any]:
    """The services of such a project that are started."""
    return {
        name: service
        for name, service in project["services"].items()
        if not service.get("profiles")
    }
