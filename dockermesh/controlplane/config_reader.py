"""From stored documents and workloads' own resources to the config that translation uses.

A resource that does not validate is left out and reported; it never takes others with it. Of a
stored policy what keeps others out stays in force (`config.closing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from dockermesh.config.closing import closed, closes
from dockermesh.config.documents import read_document, read_text
from dockermesh.config.findings import Finding
from dockermesh.config.resource import Resource
from dockermesh.model import Workload
from dockermesh.registry import StoredResource
from dockermesh.registry.damaged import key_parts
from dockermesh.translate.mesh.settings import IstioConfig, istio_config

log = structlog.get_logger(__name__)


Instead = Literal["closed", "parts", "nothing"]
"""What is in force in the place of a resource that is not valid."""
_SAID: Mapping[Instead, str] = {
    "closed": "what it does not say clearly lets nothing through",
    "parts": "its valid settings stay in force",
    "nothing": "it has no effect",
}


@dataclass(frozen=True, slots=True)
class RefusedResource:
    """A stored resource that is not valid, and what is in force in its place."""

    name: str
    reason: str
    instead: Instead

    @property
    def sentence(self) -> str:
        """What to say of it."""
        return (
            f"{self.name} is stored, but not valid for this version ({self.reason});"
            f" {_SAID[self.instead]}. Apply it again, or delete it."
        )


@dataclass(frozen=True, slots=True)
class _Read:
    """What a stored document gave."""

    item: StoredResource
    resources: tuple[Resource[Any], ...]
    refused: RefusedResource | None = None


class ConfigReader:
    """Reads each document once: what did not change is not decoded again."""

    def __init__(self) -> None:
        self._stored: dict[str, _Read] = {}
        self._carried: dict[str, tuple[str, tuple[Resource[Any], ...]]] = {}
        self._inputs: tuple[object, ...] = ()
        self._config = IstioConfig()

    def read(
        self, stored: Mapping[str, StoredResource], workloads: Mapping[str, Workload]
    ) -> IstioConfig:
        """The resources of both sources; the same object while nothing changed.

        Resources of the store win over those that a workload carries under the same name.
        """
        kept = {key: self._read_stored(item) for key, item in stored.items()}
        carried = {
            name: self._read_carried(w) for name, w in workloads.items() if w.config
        }
        self._stored, self._carried = kept, carried
        # Identity of the parts tells whether anything changed: unchanged documents keep their
        # resources.
        inputs = (
            *(id(read.resources) for read in kept.values()),
            "",
            *(id(r) for _, r in carried.values()),
        )
        if inputs != self._inputs:
            self._inputs = inputs
            groups = (
                *(resources for _, resources in carried.values()),
                *(read.resources for read in kept.values()),
            )
            self._config = istio_config(r for group in groups for r in group)

        return self._config

    @property
    def refused(self) -> list[RefusedResource]:
        """The stored resources that are not valid; those whose value is lost are told by their
        store.
        """
        return [read.refused for read in self._stored.values() if read.refused]

    def _read_stored(self, item: StoredResource) -> _Read:
        known = self._stored.get(item.key)
        if known is not None and known.item is item:
            return known
        if item.is_lost:
            return _Read(item, _in_place_of(item))
        reading = read_document(item.resource)
        _report(item.key, reading.findings)
        error = next((f for f in reading.findings if f.is_error), None)
        if error is None:
            return _Read(item, reading.resources)
        stand_in = _in_place_of(item)
        return _Read(item, stand_in, _refusal(item.key, error, bool(stand_in)))

    def _read_carried(
        self, workload: Workload
    ) -> tuple[str, tuple[Resource[Any], ...]]:
        known = self._carried.get(workload.name)
        if known is not None and known[0] == workload.config:
            return known
        reading = read_text(workload.config, file=f"workload {workload.name}")
        _report(workload.name, reading.findings)
        return workload.config, reading.resources


def _in_place_of(item: StoredResource) -> tuple[Resource[Any], ...]:
    """What stays in force of a resource that cannot be used."""
    _group, kind, namespace, name = key_parts(item.key)
    made = closed(kind, namespace, name, None if item.is_lost else item.resource)
    return (made,) if made is not None else ()


def _refusal(key: str, error: Finding, has_stand_in: bool) -> RefusedResource:
    _group, kind, namespace, name = key_parts(key)
    reason = f"{error.field}: {error.message}".removeprefix(": ")
    instead: Instead = "nothing"
    if has_stand_in:
        instead = "closed" if closes(kind) else "parts"
    return RefusedResource(f"{kind} {namespace}/{name}", reason, instead)


def _report(where: str, findings: Iterable[Any]) -> None:
    for finding in findings:
        if finding.is_error:
            log.warning(
                "resource left out",
                where=where,
                field=finding.field,
                reason=finding.message,
            )
