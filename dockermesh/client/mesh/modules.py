"""The modules of plugins that are files of this machine: `apply` brings them to the control plane.

A resource keeps its `file://` URL, and gets the file's sha256, by which the control plane knows
what it was brought.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from dockermesh.client.mesh.api_client import ApiClient
from dockermesh.errors import InputError
from dockermesh.model.contract import MODULES_PATH

_KIND = "WasmPlugin"
Send = Callable[[], None]


def with_module(
    document: Mapping[str, Any], file: str, client: ApiClient
) -> tuple[Mapping[str, Any], Send]:
    """The resource as it is applied, and what brings its module to the control plane. `file` is
    where the resource was read from; a path in its URL without a slash in front begins beside it.

    A file that is not on this machine may be on the control plane's. Raises InputError for one that
    is not what the resource's sha256 says.
    """
    url = str(document.get("spec", {}).get("url", ""))
    if document.get("kind") != _KIND or not url.startswith("file://"):
        return document, _nothing
    path = _path_of(url, file)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return document, _nothing
    except OSError as error:
        raise InputError(
            f"{path} cannot be read: {error.strerror}", where=file
        ) from error

    found = hashlib.sha256(content).hexdigest()
    said = document["spec"].get("sha256") or found
    if said != found:
        raise InputError(
            f"{path} has the sha256 {found}, and not {said}",
            where=file,
            fix="correct spec.sha256, or leave it out",
        )
    named = {**document, "spec": {**document["spec"], "sha256": found}}
    return named, lambda: _bring(client, found, content)


def _nothing() -> None:
    """There is no module to bring."""


def _path_of(url: str, file: str) -> Path:
    parts = urlsplit(url)
    # `file://filter.wasm` has its path where a URL has a host.
    beside = Path(file).parent if file and not file.startswith("<") else Path()
    return beside / unquote(f"{parts.netloc}{parts.path}")


def _bring(client: ApiClient, sha256: str, content: bytes) -> None:
    path = f"{MODULES_PATH}/{sha256}"
    if not client.request("GET", path).body["stored"]:
        client.send(path, content)
