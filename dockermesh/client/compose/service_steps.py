"""What Compose does with containers, told as what happens to the user's services.

Invariant: each step of a service is told once, and under the name that it has in the user's file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.docker.summary import name_of
from dockermesh.inject.string_map import string_map
from dockermesh.model.contract import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_ROLE,
    LABEL_SERVICE,
)

_LINE = re.compile(r"\s*Container (\S+)\s+([A-Z][a-z]+)\b")
_OF_PODS = {"Started": "its proxy starts", "Healthy": "proxy is ready"}
_OF_APPS = {
    "Started": "started",
    "Waiting": "others wait for it",
    "Healthy": "healthy",
    "Exited": "has done its work",
    "Error": "failed",
    "Stopped": "stopped",
}


@dataclass(frozen=True, slots=True)
class Part:
    """What a container is: the service that the user knows, and its role for it."""

    service: str
    role: str


def parts_of(project: Mapping[str, Any]) -> dict[str, Part]:
    """The containers of a project that is to be started, by name."""
    title = project["name"]
    found: dict[str, Part] = {}
    for name, service in project["services"].items():
        labels = string_map(service.get("labels"))
        part = Part(labels.get(LABEL_SERVICE) or name, labels.get(LABEL_ROLE, ""))
        count = int(service.get("scale") or 1)
        own = [f"{title}-{name}-{n}" for n in range(1, count + 1)]
        found |= dict.fromkeys([service.get("container_name") or own[0], *own], part)
    return found


def parts_running(containers: Iterable[Mapping[str, Any]]) -> dict[str, Part]:
    """The same of containers as the engine lists them."""
    found: dict[str, Part] = {}
    for container in containers:
        labels = container["Labels"]
        service = labels.get(LABEL_SERVICE) or labels.get(COMPOSE_SERVICE, "")
        name = name_of(container)
        if name and labels.get(COMPOSE_PROJECT):
            found[name] = Part(service, labels.get(LABEL_ROLE, ""))
    return found


def event_of(line: str) -> tuple[str, str]:
    """A container's name and what Compose says of it, both empty for other lines."""
    match = _LINE.match(line)
    return (match[1], match[2]) if match else ("", "")


class ServiceSteps:
    """Takes Compose's lines and tells steps."""

    def __init__(self, parts: Mapping[str, Part], step: Callable[[str], None]) -> None:
        self._parts = parts
        self._step = step
        self._told: set[str] = set()

    def __call__(self, line: str) -> None:
        """Tell what a line means, if that is new."""
        name, event = event_of(line)
        part = self._parts.get(name)
        if part is None or part.role == "proxy":
            return

        meanings = _OF_PODS if part.role == "pod" else _OF_APPS
        text = f"{part.service}: {meanings.get(event, '')}"
        if event in meanings and text not in self._told:
            self._told.add(text)
            self._step(text)
