"""What `doctor` says about images and disks: never green for what `up` cannot do."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from dockermesh.client.compose.doctor_finding import Finding, Verdict
from dockermesh.client.images.base import WAYS_OUT, can_get_base
from dockermesh.client.images.mesh_images import MeshImage, State, mesh_images
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.image_store import ImageStore
from dockermesh.inject.images import variable

_MIB = 1 << 20
_ROOM_TO_BUILD = 2500 * _MIB
_ROOM_TO_RUN = 200 * _MIB


def check_images(engine: LocalEngine, registry: str) -> Iterator[Finding]:
    """A finding for each that a mesh with this registry has, and one for the disk that they are
    on.
    """
    store = ImageStore(engine)
    images = mesh_images(store, os.environ, registry=registry)
    to_build = [
        image for image in images if image.is_ours and image.state is not State.PRESENT
    ]
    can_build = not to_build or can_get_base(store, os.environ)

    for image in images:
        if image.state is State.PRESENT:
            yield Finding("image", Verdict.OK, image.reference)
        elif image.is_ours:
            yield _to_build(image, can_build=can_build)
        else:
            yield _to_pull(image, can_pull=store.can_pull(image.reference))

    yield from _disk(engine, _ROOM_TO_BUILD if to_build else _ROOM_TO_RUN)


def check_folder(folder: Path, fix: str) -> Finding:
    """Whether a folder can be written, or made."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding("state", Verdict.OK, f"{folder} can be written")
    return Finding("state", Verdict.FAILED, f"{folder} cannot be written", fix)


def _to_build(image: MeshImage, *, can_build: bool) -> Finding:
    what = (
        "was built from other sources"
        if image.state is State.STALE
        else "is not here yet"
    )
    if can_build:
        detail = f"{image.reference} {what}"
        return Finding("image", Verdict.WARNING, detail, "`dockermesh up` builds it")
    detail = f"{image.reference} {what}, and there is no image to build it on"
    return Finding("image", Verdict.FAILED, detail, WAYS_OUT)


def _to_pull(image: MeshImage, *, can_pull: bool) -> Finding:
    if can_pull:
        detail = f"{image.reference} is not here yet"
        return Finding("image", Verdict.WARNING, detail, "`dockermesh up` pulls it")
    return Finding(
        "image",
        Verdict.FAILED,
        f"{image.reference} is not here, and its registry does not have it or does not answer",
        f"`docker login`, `dockermesh images push`, or name another: {variable(image.name)}",
    )


def _is_this_host(engine: LocalEngine) -> bool:
    """Whether the engine calls its host as this machine is called: a socket may lead elsewhere."""
    return str(engine.info().get("Name") or "") == socket.gethostname()


def _disk(engine: LocalEngine, wanted: int) -> Iterator[Finding]:
    root = str(engine.info().get("DockerRootDir") or "")
    # The disk of this machine says nothing of an engine elsewhere, whatever names it.
    if (
        not engine.address.is_socket
        or not _is_this_host(engine)
        or not Path(root).exists()
    ):
        return

    free = shutil.disk_usage(root).free
    if free < wanted:
        yield Finding(
            "disk",
            Verdict.FAILED,
            f"{free // _MIB} MiB are free in {root}, {wanted // _MIB} are needed",
            "make room: `docker system df` tells what takes it",
        )
