"""Paths of this machine that containers are to see: an engine elsewhere has others, and makes an
empty directory of what it has not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError
from dockermesh.inject.profiles import started
from dockermesh.model.contract import ENV_CA_DIR

_REMEDY = "build it into the image, use a named volume or `configs:`, or copy it there"
_OF_MESH = (
    (
        "DOCKERMESH_CONFIG",
        "`dockermesh up --config DIR` sends resources through the API",
    ),
    (ENV_CA_DIR, "copy it there, and name the path that it has on that host"),
)


@dataclass(frozen=True, slots=True)
class HostPath:
    """A path that is mounted from the engine's host: what for, and what to do if it is not
    there. `is_made` tells whether Docker would make an empty directory.
    """

    path: str
    owner: str
    fix: str
    is_made: bool = True


def check_paths(engine: LocalEngine, paths: Iterator[HostPath]) -> list[str]:
    """What to warn of. Raises InputError for a path that is here, but not on the engine's host."""
    seen: dict[str, bool] = {}
    warnings = []

    for wanted in paths:
        if wanted.path not in seen:
            seen[wanted.path] = engine.sees(wanted.path)
        if seen[wanted.path]:
            continue

        if os.path.exists(wanted.path):  # noqa: PTH110 (a path that may not be looked at is none)
            raise InputError(
                f"{wanted.path} is here, but not on the engine's host {engine.url}",
                where=wanted.owner,
                fix=wanted.fix,
            )

        if wanted.is_made:
            warnings.append(
                f"{wanted.owner}: {wanted.path} does not exist; Docker makes an empty directory"
            )

    return warnings


def mounted_paths(project: Mapping[str, Any]) -> Iterator[HostPath]:
    """The bind mounts of what is started of a project, and the files of its configs and secrets."""
    for name, service in started(project).items():
        for volume in service.get("volumes") or ():
            if volume.get("type") == "bind":
                owner = f"bind mount of service {name}"
                made = (volume.get("bind") or {}).get("create_host_path", True)
                yield HostPath(str(volume["source"]), owner, _REMEDY, bool(made))

        for kind in ("configs", "secrets"):
            # With `file:` they are bind mounts, too.
            for file in _files(project.get(kind) or {}, service.get(kind) or ()):
                fix = "use `content:` or `environment:`, or copy it there"
                yield HostPath(file, f"{kind} of service {name}", fix, is_made=False)


def _files(
    defined: Mapping[str, Any], used: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    for use in used:
        file = (defined.get(use["source"]) or {}).get("file")
        if file:
            yield str(file)


def mesh_paths(environment: Mapping[str, str], folder: Path) -> Iterator[HostPath]:
    """The paths that the mesh's own settings name, relative ones from `folder` as Compose has
    them.
    """
    for variable, fix in _OF_MESH:
        value = environment.get(variable, "")
        # Anything else is a volume's name, as in Compose's short form.
        if value.startswith((".", "/", "~")):
            path = (folder / Path(value).expanduser()).resolve()
            yield HostPath(str(path), variable, fix)
