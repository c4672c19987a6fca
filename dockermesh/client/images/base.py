"""What our images are built on: the user's choice, Debian's and Python's public images, or a Debian
that is made here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from dockermesh.client.compose.mesh_files import settings_beside
from dockermesh.client.images.host_settings import apt_proxy, debian_sources
from dockermesh.client.images.mesh_images import Say
from dockermesh.client.images.reachable import answers
from dockermesh.client.images.sources import checkout, image_files
from dockermesh.docker.image_store import ImageStore
from dockermesh.errors import EngineError

PYTHON_BASE = "python:3.11-slim-bookworm"
DEBIAN_BASE = "debian:bookworm-slim"
OWN_BASE = "dockermesh-base:bookworm"
PUBLIC = (PYTHON_BASE, DEBIAN_BASE)
WAYS_OUT = (
    "name an image that you have, with Python 3.11 or later on Debian: BASE_IMAGE=...; or a"
    " registry that has the mesh's images: DOCKERMESH_IMAGES_FROM=registry/prefix; or load them:"
    " `dockermesh images save FILE` where they are, `docker load -i FILE` here"
)
_CHANGES = ('CMD ["bash"]', "ENV LANG=C.UTF-8")


def base_at_hand(
    store: ImageStore, environ: Mapping[str, str]
) -> dict[str, str] | None:
    """The base of each image (`python` and `debian`), as it is on the engine; None if it is not."""
    named = named_base(environ)
    for python, debian in (
        ((named, named),) if named else (PUBLIC, (OWN_BASE, OWN_BASE))
    ):
        if store.inspect(python) is not None and store.inspect(debian) is not None:
            return {"python": python, "debian": debian}
    return None


def get_base(
    store: ImageStore, environ: Mapping[str, str], step: Say
) -> dict[str, str]:
    """The base of each image; pulled or made if it must be.

    Raises EngineError with the ways out.
    """
    found = base_at_hand(store, environ)
    if found is not None:
        return found

    named = named_base(environ)
    refused = _pull(store, (named,) if named else PUBLIC, step)
    if refused and named:
        raise EngineError(refused.what, where="BASE_IMAGE", fix=WAYS_OUT)

    if refused:
        _make(store, refused.what, step)
    return base_at_hand(store, environ) or {}


def can_get_base(store: ImageStore, environ: Mapping[str, str]) -> bool:
    """Whether `get_base` is likely to succeed; changes nothing."""
    named = named_base(environ)
    wanted = (named,) if named else PUBLIC
    return (
        base_at_hand(store, environ) is not None
        or all(store.can_pull(image) for image in wanted)
        or (not named and not list(_lacking()))
    )


def named_base(environ: Mapping[str, str]) -> str:
    """BASE_IMAGE, from the environment, or as a checkout's compose/.env has it."""
    tree = checkout()
    decided = (
        settings_beside(tree / "compose" / "mesh.yaml") if tree is not None else {}
    )
    named = environ.get("BASE_IMAGE") or decided.get("BASE_IMAGE", "")
    # No registry has the one that is made here, or what it has under this name is somebody else's.
    return "" if named == OWN_BASE else named


def _pull(store: ImageStore, wanted: tuple[str, ...], step: Say) -> EngineError | None:
    for image in wanted:
        if store.inspect(image) is None:
            step(f"pulling {image}")
            try:
                store.pull(image)
            except EngineError as error:
                return error
    return None


def _lacking() -> Iterator[str]:
    """Why this machine cannot make a base image."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        yield "this is no Debian or Ubuntu"
    elif os.geteuid() != 0:
        yield "only root can make a base image (run `sudo dockermesh images build` once)"


def _make(store: ImageStore, refused: str, step: Say) -> None:
    lacking = next(_lacking(), "")
    if lacking:
        raise EngineError(f"no image to build on: {refused}; {lacking}", fix=WAYS_OUT)

    mirrors = debian_sources()
    if not answers(mirrors, os.environ, apt_proxy()):
        raise EngineError(
            f"no image to build on: {refused}; nor does any of Debian's mirrors answer",
            where=", ".join(mirrors),
            fix=WAYS_OUT,
        )

    step(f"{refused.splitlines()[0][:150]}")
    step(f"making {OWN_BASE} with debootstrap (a minute)")

    # Not in /tmp, which may be in memory: a whole root file system goes in.
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="dockermesh-") as folder:
        target = Path(folder) / "base.tar"
        done = subprocess.run(
            ["sh", str(image_files() / "debian-base"), str(target)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

        if done.returncode:
            raise EngineError(
                f"no image to build on: {refused}; debootstrap failed:\n{done.stderr.strip()}",
                fix=WAYS_OUT,
            )

        store.import_tar(target, OWN_BASE, _CHANGES)
