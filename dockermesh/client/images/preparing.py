"""What `up` needs before it starts anything: the mesh's images, and the app's."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dockermesh.client.compose.compose_failure import reason, remedy
from dockermesh.client.images.building import build, run_build
from dockermesh.client.images.mesh_images import MeshImage, Say, State, mesh_images
from dockermesh.docker.compose import project_arguments, stream_compose
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.image_store import ImageStore
from dockermesh.errors import EngineError
from dockermesh.inject.images import variable
from dockermesh.inject.profiles import started


def prepare_mesh(engine: LocalEngine, registry: str, say: Say, step: Say) -> None:
    """Have all images of the mesh on the engine: ours built from what is installed, the user's
    pulled. Nothing is done when they are there.
    """
    store = ImageStore(engine)
    images = mesh_images(store, os.environ, registry=registry)
    pull([image for image in images if image.state is State.MISSING], store, say, step)
    wanted = [
        image for image in images if image.is_ours and image.state is not State.PRESENT
    ]
    for image in wanted:
        if image.state is State.STALE:
            say(f"{image.reference} was built from other sources and is built anew")

    if wanted:
        build(store, [image.name for image in wanted], step)


def pull(images: Sequence[MeshImage], store: ImageStore, say: Say, step: Say) -> None:
    """Pull those that the user named, and say which they are."""
    for image in images:
        if image.is_ours:
            continue
        step(f"pulling {image.reference}")

        try:
            digest = store.pull(image.reference)
        except EngineError as error:
            raise EngineError(
                error.what,
                where=image.reference,
                fix=(
                    "see that the registry has it (`dockermesh images push` puts it there), `docker"
                    f" login` to it, or name another: {variable(image.name)}"
                ),
            ) from error

        say(f"{image.reference} {digest}".rstrip())


def prepare_app(
    engine: LocalEngine,
    project: Mapping[str, Any],
    file: Path,
    *,
    build_all: bool,
    step: Say,
) -> int:
    """Build and pull the app's images that are missing, or build all; returns how many were."""
    wanted = _wanted(ImageStore(engine), project, build_all=build_all)
    builds = sorted(service for service, of in wanted.items() if _is_built(of))
    pulls = sorted(service for service, of in wanted.items() if _is_pulled(of))

    arguments = project_arguments([str(file)], str(project["name"]))
    if pulls:
        _pull_app([*arguments, "pull", *pulls], pulls, wanted, step)
    if builds:
        run_build(
            [*arguments, "build", *builds], "build the app", dict(os.environ), step
        )

    return len(builds) + len(pulls)


def _wanted(
    store: ImageStore, project: Mapping[str, Any], *, build_all: bool
) -> dict[str, Mapping[str, Any]]:
    """The services whose image is to be built or pulled, as `docker compose up` would."""
    name = str(project["name"])
    return {
        service: settings
        for service, settings in started(project).items()
        if (build_all and _is_built(settings))
        or _is_renewed(settings)
        or store.inspect(_image_of(name, service, settings)) is None
    }


def _is_built(settings: Mapping[str, Any]) -> bool:
    return "build" in settings


def _is_pulled(settings: Mapping[str, Any]) -> bool:
    # What can be built is built, whatever a registry has under its name.
    may_pull = settings.get("pull_policy") not in {"never", "build"}
    return may_pull and not _is_built(settings)


def _is_renewed(settings: Mapping[str, Any]) -> bool:
    """Whether Compose would ask for it at every `up`, or build it."""
    policy = str(settings.get("pull_policy") or "missing")
    if _is_built(settings):
        return policy == "build"
    return policy not in {"never", "missing", "if_not_present", "build"}


def _pull_app(
    arguments: list[str], services: list[str], settings: Mapping[str, Any], step: Say
) -> None:
    for image in sorted({str(settings[service]["image"]) for service in services}):
        step(f"pulling {image}")
    status, lines = stream_compose(arguments, lambda _: None, env=dict(os.environ))

    if status:
        said = "\n".join(lines)
        raise EngineError(
            f"Compose could not pull the app's images: {reason(said, status)}",
            fix=remedy(said, os.environ),
        )


def _image_of(project: str, service: str, settings: Mapping[str, Any]) -> str:
    return str(settings.get("image") or f"{project}-{service}")
