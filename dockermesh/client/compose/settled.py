"""Whether an `up` finds what the last one left: then Compose need not be asked, which would wait
for each pod's health to say that nothing is to be done.

Invariant: in doubt it is asked. A container keeps the settings that it was made with, so that the
same ones from the same file and the same images, all running, are what Compose would leave alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dockermesh.client.compose.engine_record import SETTLED_FILE
from dockermesh.docker.engine import LocalEngine
from dockermesh.docker.image_store import ImageStore
from dockermesh.model.contract import COMPOSE_PROJECT
from dockermesh.runtime.files import PRIVATE, replace_file

_NOT_THERE_YET = ("(unhealthy)", "(health: starting)")
"""What the engine says behind a running container's age."""


def is_settled(
    engine: LocalEngine, project: Mapping[str, Any], folder: Path, text: str
) -> bool:
    """Whether the project runs as `remember_settled` saw it, and would be made of the same images
    and the same file again; `text` is the file.
    """
    if _has_more_than_its_file(project):
        return False
    try:
        known = json.loads((folder / SETTLED_FILE).read_bytes())
    except (OSError, ValueError):
        return False

    containers = _listed(engine, str(project["name"]))
    is_same = bool(known == _record(containers, text))
    return is_same and _are_there(containers) and _are_current(engine, containers)


def remember_settled(
    engine: LocalEngine, project: str, folder: Path, text: str
) -> None:
    """Write down what runs now, if all of it does."""
    containers = _listed(engine, project)
    if _are_there(containers):
        record = json.dumps(_record(containers, text)).encode()
        with suppress(OSError):
            replace_file(folder / SETTLED_FILE, record, PRIVATE)


def forget_settled(folder: Path) -> None:
    """From now on something may be half done."""
    with suppress(OSError):
        (folder / SETTLED_FILE).unlink(missing_ok=True)


def _has_more_than_its_file(project: Mapping[str, Any]) -> bool:
    """Whether what Compose makes also depends on what the file only names: other files and
    variables, whose content may be copied into containers, and programs that provide a service.
    """
    given = [*(project.get("configs") or {}).values()]
    given += (project.get("secrets") or {}).values()
    services = project["services"].values()
    return any({"file", "environment"} & set(one or {}) for one in given) or any(
        "provider" in service for service in services
    )


def _listed(engine: LocalEngine, project: str) -> list[dict[str, Any]]:
    return engine.containers([f"{COMPOSE_PROJECT}={project}"])


def _record(containers: Sequence[Mapping[str, Any]], text: str) -> dict[str, Any]:
    """In the form that JSON gives back."""
    return {
        "file": hashlib.sha256(text.encode()).hexdigest(),
        "containers": {
            container["Id"]: [
                container["Image"],
                container["ImageID"],
                _networks(container),
            ]
            for container in containers
        },
    }


def _are_there(containers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether all run, and nobody waits for their health."""
    return all(
        container["State"] == "running"
        and not str(container.get("Status") or "").endswith(_NOT_THERE_YET)
        for container in containers
    )


def _networks(container: Mapping[str, Any]) -> list[str]:
    found = (container.get("NetworkSettings") or {}).get("Networks") or {}
    return sorted(str(network.get("NetworkID")) for network in found.values())


def _are_current(engine: LocalEngine, containers: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the images' names still mean what the containers were made of."""
    store = ImageStore(engine)
    made_of = {(c["Image"], c["ImageID"]) for c in containers}
    return all(
        (store.inspect(name) or {}).get("Id") == image for name, image in made_of
    )
