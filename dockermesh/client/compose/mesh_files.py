"""The files that the mesh's containers are made of, and the part of them that every proxy starts
with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dockermesh
from dockermesh.errors import InputError
from dockermesh.model.contract import ENV_EXPLICIT, RUN_PATH, XDS_TLS_PORT


def mesh_file() -> Path:
    """compose/mesh.yaml, of the source tree or of the installed package."""
    package = Path(dockermesh.__file__).parent
    for candidate in (
        package.parent / "compose" / "mesh.yaml",
        package / "_compose" / "mesh.yaml",
    ):
        if candidate.is_file():
            return candidate
    raise InputError(
        "compose/mesh.yaml is missing", where=str(package), fix="reinstall dockermesh"
    )


def mesh_environment() -> dict[str, str]:
    """The environment for `mesh_file`."""
    found = dict(os.environ)
    # Its images are here when it is started; whatever the user's own setting, none is pulled then.
    found["DOCKERMESH_PULL"] = "never"
    return found


def settings_beside(file: Path) -> dict[str, str]:
    """What a file `.env` beside this one says, which Compose reads below the environment."""
    try:
        lines = (file.parent / ".env").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    return {
        name.strip(): value.strip().strip("'\"")
        for name, equals, value in pairs
        if equals
    }


def explicit_setting(
    said: bool | None, env: Mapping[str, str], known: Mapping[str, Any] | None
) -> dict[str, str]:
    """The setting for mesh.yaml: as said, else as the environment or the mesh has it."""
    text = "" if said is None else str(said).lower()
    return {ENV_EXPLICIT: text} if text else kept_setting(ENV_EXPLICIT, "", env, known)


def kept_setting(
    name: str, new: str, env: Mapping[str, str], known: Mapping[str, Any] | None
) -> dict[str, str]:
    """A setting for mesh.yaml: the environment's, for which there is nothing to add; else the
    new one; else as the mesh has it.
    """
    if env.get(name):
        return {}
    value = new or settings_of(known).get(name)
    return {name: value} if value else {}


def settings_of(container: Mapping[str, Any] | None) -> dict[str, str]:
    """The environment that a container was made with, by what the engine says of it."""
    entries = ((container or {}).get("Config") or {}).get("Env") or ()
    return dict(str(entry).partition("=")[::2] for entry in entries)


def pod_file(name: str, values: Mapping[str, str]) -> bytes:
    """A template of the pod's image, filled in."""
    text = (mesh_file().parent / "images" / "pod" / name).read_text()
    for key, value in values.items():
        # All of them stand inside of JSON strings, or are numbers.
        text = text.replace(f"@{key}@", json.dumps(value)[1:-1])
    return text.encode()


def bootstrap_resources() -> dict[str, list[dict[str, Any]]]:
    """The listeners that every proxy has before it is told anything, and their clusters, with the
    protos' field names.

    The cluster of the control plane is not among them: it is another one in every mesh.
    """
    values = {"RUN": RUN_PATH, "CONTROL_PLANE_PORT": str(XDS_TLS_PORT)}
    static = json.loads(pod_file("bootstrap.json", values))["static_resources"]
    own = [c for c in static["clusters"] if c.get("type") == "STATIC"]
    return {"listeners": static["listeners"], "clusters": own}
