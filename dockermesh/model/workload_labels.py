"""What a workload is called in the mesh, and its labels, which subsets and selectors match: by what
Docker's labels and registrator's conventions say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from dockermesh.model.contract import COMPOSE_LABELS, LABEL_PREFIX
from dockermesh.model.workload import TRAFFIC_LABELS

_TAGS_KEY = re.compile(r"SERVICE_(\d+_)?TAGS")
_PORT_NAME = re.compile(r"SERVICE_\d+_NAME")


def conventions(
    environment: Mapping[str, str], labels: Mapping[str, str]
) -> dict[str, str]:
    """A service's `SERVICE_*` metadata; labels beat environment, as with registrator."""
    return {
        key: value
        for key, value in {**environment, **labels}.items()
        if key.startswith("SERVICE_") and value
    }


def mesh_name(name: str, said: Mapping[str, str], *, is_single: bool) -> str:
    """What the mesh calls the Compose service `name`: as is said, for its only port if there, else
    Compose's name.
    """
    named = {value for key, value in said.items() if _PORT_NAME.fullmatch(key)}
    alone = named.pop() if len(named) == 1 and is_single else name
    return said.get("SERVICE_NAME") or alone


def workload_labels(
    app: str, labels: Mapping[str, str], said: Mapping[str, str]
) -> dict[str, str]:
    """`app`, tags `key|value` or `key=value` (of those of `said` that are `SERVICE_TAGS`), and
    Docker labels.
    """
    own = {
        key: value
        for key, value in labels.items()
        if not key.startswith(
            (COMPOSE_LABELS, "SERVICE_", LABEL_PREFIX, TRAFFIC_LABELS)
        )
    }
    tags: dict[str, str] = {}
    for key, value in sorted(said.items()):
        if _TAGS_KEY.fullmatch(key):
            tags.update(_tags(value))

    return {"app": app} | tags | own


def _tags(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for tag in re.split(r"(?<!\\),", text):
        parts = re.split(r"[|=]", tag.replace("\\,", ","), maxsplit=1)
        if len(parts) == 2 and parts[0]:
            found[parts[0]] = parts[1]
    return found
