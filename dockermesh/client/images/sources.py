"""What the images are made of, as it is installed: the package and the Dockerfiles.

Invariant: a checkout and a wheel of the same content give the same files and the same fingerprint.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import dockermesh
from dockermesh.client.compose.mesh_files import mesh_file

SOURCES_LABEL = "dockermesh.io/sources"
_PACKAGE = "dockermesh"
_IMAGES = "compose/images"
_MADE_OF = {
    "consul": (f"{_IMAGES}/consul/", f"{_IMAGES}/debian-"),
    "control-plane": (f"{_PACKAGE}/", f"{_IMAGES}/control-plane/"),
    "pod": (f"{_IMAGES}/pod/",),
    "prometheus": (f"{_IMAGES}/prometheus/", f"{_IMAGES}/debian-"),
    "proxy": (f"{_IMAGES}/proxy/",),
}
_SKIPPED = ("__pycache__", "_compose")


def image_files() -> Path:
    """The folder of the Dockerfiles."""
    return mesh_file().parent / "images"


def checkout() -> Path | None:
    """The source tree that we run from; None when we were installed."""
    return None if mesh_file().parent.name == "_compose" else mesh_file().parent.parent


@cache
def fingerprint(name: str) -> str:
    """A hash of everything of ours that an image is made of."""
    total = hashlib.sha256()
    for path, file in _files():
        if path.startswith(_MADE_OF[name]):
            content = file.read_bytes()
            # With the length, so that no other parting of the same bytes gives the same hash.
            total.update(f"{path}\0{len(content)}\0".encode())
            total.update(content)
    return total.hexdigest()[:24]


def stage(folder: Path) -> None:
    """Copy the sources into a build context, laid out as in a checkout."""
    for path, file in _files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        # Else this user's umask would be in the image, and in the keys of the build cache.
        target.chmod(0o644)


def _files() -> list[tuple[str, Path]]:
    package = Path(dockermesh.__file__).parent
    return sorted([*_below(package, _PACKAGE), *_below(image_files(), _IMAGES)])


def _below(folder: Path, name: str) -> Iterator[tuple[str, Path]]:
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        is_hidden = any(part in _SKIPPED or part.startswith(".") for part in path.parts)
        if file.is_file() and not is_hidden and file.suffix != ".pyc":
            yield f"{name}/{path.as_posix()}", file
