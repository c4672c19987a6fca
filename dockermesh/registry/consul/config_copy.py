"""The copy on this host's disk of what was accepted last from the store.

With it a control plane that starts tells a Consul that lost its data from a new one, as it does for
the CA. Secrets are sealed in the store, so they are here; of tokens there are digests alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from dockermesh.registry.consul.config_guard import Marker
from dockermesh.registry.protocols import StoredResource
from dockermesh.runtime.files import PRIVATE, replace_file

_log = structlog.get_logger(__name__)
Copied = tuple[Marker | None, dict[str, StoredResource]]


class ConfigCopy:
    """One file; `problem` says why it does not hold what it should."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.problem = ""

    def load(self) -> Copied:
        """The marker and the resources; None and nothing if there is no copy, or a damaged one."""
        try:
            return _read(self._file.read_bytes())
        except FileNotFoundError:
            return None, {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            # Not fatal: the store itself is still there, as it is at nearly every start.
            _log.error(
                "the copy of the config cannot be read; only Consul's is known",
                file=str(self._file),
                reason=str(error),
            )
            return None, {}

    def save(self, marker: Marker, resources: Mapping[str, StoredResource]) -> None:
        """Replace the file in one step; a failure is told by `problem`. May run in a thread."""
        content = json.dumps(
            {
                "store": marker.store,
                "generation": marker.generation,
                "version": marker.version,
                "resources": {
                    key: [item.version, item.resource]
                    for key, item in resources.items()
                    if not item.is_lost
                },
            },
            separators=(",", ":"),
        )
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            replace_file(self._file, content.encode(), PRIVATE, is_durable=True)
        except OSError as error:
            problem = (
                f"The copy of the config at {self._file} cannot be written"
                f" ({error.strerror}): if Consul lost its data now, so would the mesh."
            )
            if problem != self.problem:
                _log.error(problem)
            self.problem = problem
        else:
            self.problem = ""


def _read(content: bytes) -> Copied:
    stored: dict[str, Any] = json.loads(content)
    marker = Marker(
        str(stored["store"]), int(stored["generation"]), int(stored["version"])
    )
    resources = {
        key: StoredResource(key, dict(resource), int(version))
        for key, (version, resource) in stored["resources"].items()
    }
    return marker, resources
