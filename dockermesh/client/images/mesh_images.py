"""Which images the mesh needs, under which references, and what the engine has of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dockermesh.client.images.sources import SOURCES_LABEL, fingerprint
from dockermesh.docker.image_store import ImageStore
from dockermesh.inject.images import TAGS, is_ours, reference
from dockermesh.model.registries import DEFAULT_REGISTRY, foreign_servers

Say = Callable[[str], None]


class State(StrEnum):
    """What the engine has of an image."""

    PRESENT = "present"
    MISSING = "missing"
    STALE = "built from other sources"


@dataclass(frozen=True, slots=True)
class MeshImage:
    """One of the four."""

    name: str
    reference: str
    state: State

    @property
    def is_ours(self) -> bool:
        """Whether no registry may be asked for it."""
        return is_ours(self.reference)


def mesh_images(
    store: ImageStore, environ: Mapping[str, str], *, registry: str = DEFAULT_REGISTRY
) -> list[MeshImage]:
    """The images that a mesh with this registry needs, each with its state."""
    names = [name for name in TAGS if name not in foreign_servers(registry)]
    return [_look(store, name, reference(name, environ)) for name in names]


def _look(store: ImageStore, name: str, image: str) -> MeshImage:
    labels = store.labels(image)
    if labels is None:
        return MeshImage(name, image, State.MISSING)
    # Built by plain Compose out of a checkout it has no label, and may be anything.
    is_stale = is_ours(image) and labels.get(SOURCES_LABEL) != fingerprint(name)
    return MeshImage(name, image, State.STALE if is_stale else State.PRESENT)
