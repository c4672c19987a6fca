"""The copy on this host's disk of the catalog as it was published last.

A control plane that starts while Consul is away serves from it: endpoints by Consul service, and
the workload records, in which are digests of tokens alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any

import structlog

from dockermesh.model.protocol import Protocol
from dockermesh.model.service import Endpoint, Health
from dockermesh.model.times import time_text
from dockermesh.model.workload import Workload
from dockermesh.registry.consul.assembly import Instances
from dockermesh.registry.consul.convert import Instance
from dockermesh.runtime.files import PRIVATE, replace_file

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy holds: instances by Consul service, workloads by name, and of when it is."""

    instances: Mapping[str, Instances] = field(
        default_factory=lambda: MappingProxyType({})
    )
    workloads: Mapping[str, Workload] = field(
        default_factory=lambda: MappingProxyType({})
    )
    at: str = ""


class CatalogCopy:
    """One file; `problem` says why it does not hold what it should."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.problem = ""

    def load(self) -> Copied | None:
        """What was kept; None if there is no copy, or a damaged one."""
        try:
            return _read(json.loads(self._file.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            _log.error(
                "the copy of the catalog cannot be read; Consul is waited for",
                file=str(self._file),
                reason=str(error),
            )
            return None

    def save(
        self, instances: Mapping[str, Instances], workloads: Mapping[str, Workload]
    ) -> None:
        """Replace the file in one step; a failure is told by `problem`. May run in a thread."""
        document = {
            "at": time_text(datetime.now(UTC)),
            "services": {
                name: [_written(instance) for instance in found]
                for name, found in instances.items()
            },
            "workloads": [workload.to_dict() for workload in workloads.values()],
        }
        content = json.dumps(document, separators=(",", ":")).encode()
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, content, PRIVATE)
        except OSError as error:
            problem = (
                f"The copy of the catalog at {self._file} cannot be written"
                f" ({error.strerror}): a start without Consul would serve an older one."
            )
            if problem != self.problem:
                _log.error(problem)
            self.problem = problem
        else:
            self.problem = ""


def _written(instance: Instance) -> list[Any]:
    endpoint = {f.name: getattr(instance.endpoint, f.name) for f in fields(Endpoint)}
    plain = endpoint | {"labels": dict(instance.endpoint.labels)}
    return [plain, instance.protocol.value, instance.compose_service]


def _read(document: Mapping[str, Any]) -> Copied:
    instances = {
        str(name): tuple(_instance(*written) for written in found)
        for name, found in document["services"].items()
    }
    workloads = [_workload(written) for written in document["workloads"]]
    return Copied(
        MappingProxyType(instances),
        MappingProxyType({workload.name: workload for workload in workloads}),
        str(document["at"]),
    )


_MAPS = ("labels", "since", "protocol_rules")


def _workload(written: Mapping[str, Any]) -> Workload:
    maps = {key: MappingProxyType(written.get(key, {})) for key in _MAPS}
    return Workload.from_dict({**written, **maps})


def _instance(endpoint: Mapping[str, Any], protocol: str, compose: str) -> Instance:
    # One of another version may have fields that are not known here.
    known = {k: v for k, v in endpoint.items() if k in Endpoint.__dataclass_fields__}
    typed = {
        "labels": MappingProxyType(known.get("labels", {})),
        "health": Health(known.get("health", Health.HEALTHY)),
    }
    return Instance(Endpoint(**(known | typed)), Protocol(protocol), compose)
