"""Resources that come from files at the start, stored as if a client had replaced them.

Invariant: a file that says what is stored already changes nothing, neither version nor generation.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from dockermesh.config.resource import Resource
from dockermesh.kubeapi import managed
from dockermesh.kubeapi.cache import ObjectCache, Stored
from dockermesh.kubeapi.history import Actor, History
from dockermesh.kubeapi.objects import now, stamp
from dockermesh.kubeapi.status import Target
from dockermesh.kubeapi.writer import Writer
from dockermesh.registry import ConfigStore

MANAGER = "dockermesh-config"
_ACTOR = Actor(MANAGER, "import of files", uuid.uuid4().hex)


def key_of(resource: Resource[Any]) -> str:
    """The store's key of a resource."""
    group = resource.api_version.partition("/")[0]
    return f"{group}/{resource.kind}/{resource.namespace}/{resource.name}"


async def take_over(
    store: ConfigStore,
    cache: ObjectCache,
    key: str,
    document: Mapping[str, Any],
    history: History | None = None,
) -> None:
    """Store a valid document. Raises StatusError if the store cannot take it."""
    # Else what is stored already would be taken for absent, and be created anew.
    while not cache.is_read:
        await cache.wait()
    # A file may have been exported from another mesh.
    metadata = {
        k: v
        for k, v in document["metadata"].items()
        if k not in {"uid", "managedFields"}
    }
    metadata["namespace"] = metadata.get("namespace") or "default"
    wanted = {
        **{k: v for k, v in document.items() if k != "status"},
        "metadata": metadata,
    }

    def compute(current: Stored | None) -> dict[str, Any]:
        before = current.resource if current is not None else None
        result = {**wanted, "metadata": dict(metadata)}
        stamp(result, before, key)
        if before is not None:
            result["metadata"]["managedFields"] = (before.get("metadata") or {}).get(
                "managedFields"
            ) or []
        writer = managed.Manager(
            MANAGER, managed.UPDATE, str(document["apiVersion"]), now()
        )
        managed.record(before, result, writer)
        return result

    target = Target(
        "", str(document["kind"]), str(document["kind"]), str(metadata["name"])
    )
    await Writer(store, cache, history).write(key, target, compute, _ACTOR)
