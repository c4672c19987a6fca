"""kubectl's configuration: our context merged into what the user has.

Invariant: other contexts, clusters and users stay as they are, and the file is replaced in one step
with mode 0600.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dockermesh.ca import write_private
from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.route import SERVER_NAME
from dockermesh.errors import InputError


def _cluster(endpoint: Endpoint) -> dict[str, Any]:
    cluster: dict[str, Any] = {"server": endpoint.url}
    if endpoint.url.startswith("https:"):
        cluster["tls-server-name"] = SERVER_NAME
        if endpoint.root_pem:
            pem = base64.b64encode(endpoint.root_pem.encode())
            cluster["certificate-authority-data"] = pem.decode()
    return cluster


def merged(
    existing: Mapping[str, Any], endpoint: Endpoint, name: str, *, set_current: bool
) -> dict[str, Any]:
    """`existing` with a cluster, a user and a context for `endpoint`."""
    cluster = _cluster(endpoint)
    user = {"token": endpoint.token} if endpoint.token else {}
    result: dict[str, Any] = {"apiVersion": "v1", "kind": "Config", **existing}
    context = {"cluster": name, "user": name}

    for field, value in (
        ("clusters", {"name": name, "cluster": cluster}),
        ("users", {"name": name, "user": user}),
        ("contexts", {"name": name, "context": context}),
    ):
        others = [
            e
            for e in result.get(field) or []
            if not isinstance(e, Mapping) or e.get("name") != name
        ]
        result[field] = [*others, value]

    if set_current or not result.get("current-context"):
        result["current-context"] = name
    return result


def rendered(config: Mapping[str, Any]) -> str:
    """As YAML."""
    return yaml.safe_dump(dict(config), sort_keys=False)


def kubeconfig_files(environ: Mapping[str, str]) -> list[Path]:
    """The files that kubectl reads, in its order."""
    named = [
        Path(f).expanduser()
        for f in environ.get("KUBECONFIG", "").split(os.pathsep)
        if f
    ]
    return named or [Path.home() / ".kube" / "config"]


def file_for(files: Sequence[Path], name: str) -> Path:
    """Where kubectl would write a context of this name: into the file that has it, else the first
    that exists, else the last.
    """
    found = [file for file in files if _has(_read(file), name)]
    existing = [file for file in files if file.exists()]
    return (found or existing or [files[-1]])[0]


def make_current(files: Sequence[Path], written: Path, name: str) -> None:
    """Make a context the current one, which an earlier file than the written one may name."""
    for file in files:
        if file == written:
            return
        existing = _read(file)
        if existing.get("current-context"):
            _put(file, {**existing, "current-context": name})
            return


def _has(config: Mapping[str, Any], name: str) -> bool:
    entries = [
        e
        for field in ("contexts", "clusters", "users")
        for e in config.get(field) or ()
    ]
    return any(
        isinstance(entry, Mapping) and entry.get("name") == name for entry in entries
    )


def write(file: Path, endpoint: Endpoint, name: str, *, set_current: bool) -> None:
    """Merge into a file. Raises InputError if it is no kubeconfig, or cannot be written."""
    _put(file, merged(_read(file), endpoint, name, set_current=set_current))


def _read(file: Path) -> dict[str, Any]:
    try:
        existing = yaml.safe_load(file.read_text()) if file.exists() else None
        if existing is not None and not isinstance(existing, dict):
            raise ValueError("not a mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise _unchanged(file, error) from error
    return existing or {}


def _put(file: Path, config: Mapping[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # A link to the file stays one.
        write_private(file.resolve(), rendered(config).encode())
    except (OSError, yaml.YAMLError) as error:
        raise _unchanged(file, error) from error


def _unchanged(file: Path, error: Exception) -> InputError:
    return InputError(
        f"the kubeconfig cannot be changed: {error}",
        where=str(file),
        fix="name another file with --output",
    )
