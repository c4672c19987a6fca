"""From stored documents and workloads' own resources to the config that translation uses.

A resource that does not validate is left out and reported; it never takes others with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog

from dockermesh.config.documents import read_document, read_text
from dockermesh.config.resource import Resource
from dockermesh.model import Workload
from dockermesh.registry import StoredResource
from dockermesh.translate.mesh.settings import IstioConfig, istio_config

log = structlog.get_logger(__name__)


class ConfigReader:
    """Reads each document once: what did not change is not decoded again."""

    def __init__(self) -> None:
        self._stored: dict[str, tuple[StoredResource, tuple[Resource[Any], ...]]] = {}
        self._carried: dict[str, tuple[str, tuple[Resource[Any], ...]]] = {}
        self._inputs: tuple[object, ...] = ()
        self._config = IstioConfig()

    def read(
        self, stored: Mapping[str, StoredResource], workloads: Mapping[str, Workload]
    ) -> IstioConfig:
        """The resources of both sources; the same object while nothing changed.

        Resources of the store win over those that a workload carries under the same name.
        """
        kept = {
            key: self._read_stored(item)
            for key, item in stored.items()
            if not item.is_lost
        }
        carried = {
            name: self._read_carried(w) for name, w in workloads.items() if w.config
        }
        self._stored, self._carried = kept, carried
        # Identity of the parts tells whether anything changed: unchanged documents keep their
        # resources.
        inputs = (
            *(id(r) for _, r in kept.values()),
            "",
            *(id(r) for _, r in carried.values()),
        )
        if inputs != self._inputs:
            self._inputs = inputs
            self._config = istio_config(
                r for _, group in (*carried.values(), *kept.values()) for r in group
            )

        return self._config

    def _read_stored(
        self, item: StoredResource
    ) -> tuple[StoredResource, tuple[Resource[Any], ...]]:
        known = self._stored.get(item.key)
        if known is not None and known[0] is item:
            return known
        reading = read_document(item.resource)
        _report(item.key, reading.findings)
        return item, reading.resources

    def _read_carried(
        self, workload: Workload
    ) -> tuple[str, tuple[Resource[Any], ...]]:
        known = self._carried.get(workload.name)
        if known is not None and known[0] == workload.config:
            return known
        reading = read_text(workload.config, file=f"workload {workload.name}")
        _report(workload.name, reading.findings)
        return workload.config, reading.resources


def _report(where: str, findings: Iterable[Any]) -> None:
    for finding in findings:
        if finding.is_error:
            log.warning(
                "resource left out",
                where=where,
                field=finding.field,
                reason=finding.message,
            )
