"""The files that the mesh's containers are made of, and the part of them that every proxy starts
with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dockermesh
from dockermesh.errors import InputError
from dockermesh.model.contract import RUN_PATH, XDS_TLS_PORT


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
