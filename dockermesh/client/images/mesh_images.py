"""Which images the mesh needs, under which references, and what the engine has of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dockermesh.client.compose.mesh_files import settings_of
from dockermesh.client.images.sources import SOURCES_LABEL, fingerprint
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.image_store import ImageStore
from dockermesh.inject.images import TAGS, is_ours, reference
from dockermesh.model.contract import CONTROL_PLANE_CONTAINER, ENV_REGISTRY
from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS, foreign_servers

Say = Callable[[str], None]


class State(StrEnum):
    """What the engine has of an image."""

    PRESENT = "present"
    MISSING = "missing"
    STALE = "built from other sources"


@dataclass(frozen=True, slots=True)
class MeshImage:
    """One of them."""

    name: str
    reference: str
    state: State

    @property
    def is_ours(self) -> bool:
        """Whether no registry may be asked for it."""
        return is_ours(self.reference)


def registry_of(engine: LocalEngine, environ: Mapping[str, str]) -> str:
    """The registry of the mesh that runs on the engine, else the environment's."""
    said = settings_of(engine.inspect(CONTROL_PLANE_CONTAINER))
    named = said.get(ENV_REGISTRY) or environ.get(ENV_REGISTRY) or DEFAULT_REGISTRY
    return named if named in SERVERS else DEFAULT_REGISTRY


def mesh_images(
    store: ImageStore,
    environ: Mapping[str, str],
    *,
    registry: str = DEFAULT_REGISTRY,
    addons: Iterable[str] = (),
) -> list[MeshImage]:
    """The images that a mesh with this registry needs, and these beside it, each with its
    state.
    """
    names = [name for name in TAGS if name not in foreign_servers(registry)]
    wanted = [*names, *addons]
    return [look(store, name, reference(name, environ)) for name in wanted]


def look(store: ImageStore, name: str, image: str) -> MeshImage:
    """What the engine has of an image."""
    labels = store.labels(image)
    if labels is None:
        return MeshImage(name, image, State.MISSING)
    # Built by plain Compose out of a checkout it has no label, and may be anything.
    is_stale = is_ours(image) and labels.get(SOURCES_LABEL) != fingerprint(name)
    return MeshImage(name, image, State.STALE if is_stale else State.PRESENT)
