"""The images of what shows telemetry: their makers' where a registry has them; where none is
reached Prometheus is built of Debian's packages, and of the others there is none.

Invariant: once an image is there the answer is the same, whether a registry is reached or not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from dockermesh.client.images.building import build
from dockermesh.client.images.mesh_images import MeshImage, Say, State, look
from dockermesh.client.images.preparing import pull
from dockermesh.docker.image_store import ImageStore
from dockermesh.inject.images import (
    ADDON_TAGS,
    REGISTRY_VARIABLE,
    reference,
    variable,
)

MAKERS: Mapping[str, str] = {
    "prometheus": "prom/prometheus:v2.53.4",
    "grafana": "grafana/grafana:12.0.1",
    "zipkin": "openzipkin/zipkin-slim:3.4.0",
}
"""The services of telemetry.yaml, with the images that are its defaults."""


def telemetry_images(
    store: ImageStore, environ: Mapping[str, str], *, may_ask: bool = True
) -> dict[str, MeshImage]:
    """The image of each service that can be started. Pulls nothing; asks registries if it may."""

    def choose(name: str) -> MeshImage | None:
        return _choose(store, environ, name, may_ask=may_ask)

    # Where no registry is reached each question takes its time.
    with ThreadPoolExecutor(len(MAKERS)) as pool:
        found = pool.map(choose, MAKERS)
    return {image.name: image for image in found if image is not None}


def prepare_telemetry(
    store: ImageStore, say: Say, step: Say, *, may_ask: bool = True
) -> dict[str, str]:
    """Have these images on the engine; returns the reference of each by its service.

    Raises EngineError for one that can be neither pulled nor built.
    """
    step("looking for images of Prometheus, Grafana and Zipkin")
    images = telemetry_images(store, os.environ, may_ask=may_ask)
    missing = [image for image in images.values() if image.state is not State.PRESENT]
    pull([image for image in missing if not image.is_ours], store, say, step)
    if ours := [image.name for image in missing if image.is_ours]:
        build(store, ours, step)
    return {name: image.reference for name, image in images.items()}


def _choose(
    store: ImageStore, environ: Mapping[str, str], name: str, *, may_ask: bool
) -> MeshImage | None:
    is_ours = name in ADDON_TAGS
    if environ.get(variable(name)) or (is_ours and environ.get(REGISTRY_VARIABLE)):
        return look(
            store, name, environ.get(variable(name)) or reference(name, environ)
        )

    makers = look(store, name, MAKERS[name])
    if makers.state is State.PRESENT:
        return makers
    own = look(store, name, reference(name, {})) if is_ours else None
    if own is not None and own.state is not State.MISSING:
        return own
    return makers if may_ask and store.can_pull(makers.reference) else own
