"""Stored objects as clients see them: in the version they ask for, with metadata and status that
are not stored.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.conditions import Conditions, MeshProgress, State
from dockermesh.kubeapi.objects import derived_uid
from dockermesh.kubeapi.served import SECRET, Served
from dockermesh.kubeapi.vault import Vault


class View:
    """Makes what is answered out of what is stored."""

    def __init__(
        self, progress: MeshProgress | None = None, vault: Vault | None = None
    ) -> None:
        self._conditions = Conditions(progress)
        self._vault = vault

    def __call__(
        self,
        served: Served,
        version: str,
        key: str,
        stored: Stored,
        at: int | None = None,
    ) -> dict[str, Any]:
        """The object in a version of its group; `at` is its resourceVersion, where it is another
        than its own.
        """
        ordered = self._plain(served, version, key, stored, at)
        if served is not SECRET:
            ordered["status"] = self._status(served, key, stored, ordered["metadata"])
        return ordered

    def planned(
        self,
        served: Served,
        version: str,
        key: str,
        planned: Stored,
        current: Stored | None,
    ) -> dict[str, Any]:
        """What an object would be after a write. Nothing came of that yet, so its status is that of
        the object as it is.
        """
        ordered = self._plain(served, version, key, planned)
        if current is not None:
            now = self(served, version, key, current)
            ordered |= {k: v for k, v in now.items() if k == "status"}
        return ordered

    def _plain(
        self,
        served: Served,
        version: str,
        key: str,
        stored: Stored,
        at: int | None = None,
    ) -> dict[str, Any]:
        """The object without its status."""
        document = copy.deepcopy(self.opened(key, stored))
        document["apiVersion"], document["kind"] = (
            served.api_version(version),
            served.kind,
        )
        namespace, name = key.split("/")[-2:]
        metadata = document["metadata"] = dict(document.get("metadata") or {})
        metadata["name"] = name
        if served.namespaced:
            metadata["namespace"] = namespace
        # What was written into the store by hand has none, and clients compare them.
        metadata.setdefault("uid", derived_uid(key))
        metadata["resourceVersion"] = str(stored.version if at is None else at)
        metadata.setdefault("generation", 1)
        # For people: the envelope first, the status last.
        ordered: dict[str, Any] = {
            k: document[k] for k in ("apiVersion", "kind", "metadata") if k in document
        }
        return ordered | {
            k: v for k, v in document.items() if k not in ordered and k != "status"
        }

    def state(self, served: Served, key: str, stored: Stored) -> State:
        """The object's conditions, as far as a watcher hears of them."""
        return self._conditions.state(key, stored, served.kind)

    def opened(self, key: str, stored: Stored) -> dict[str, Any]:
        """The document of an object: what is stored, unless it is sealed."""
        is_sealed = key.startswith(SECRET.prefix) and not stored.is_lost
        if self._vault is not None and is_sealed:
            return self._vault.open(stored.resource, key)
        return dict(stored.resource)

    def forget(self, keys: Mapping[str, Stored]) -> None:
        """Keep only what is known of these."""
        self._conditions.forget(keys)

    def _status(
        self, served: Served, key: str, stored: Stored, metadata: Mapping[str, Any]
    ) -> dict[str, Any]:
        if served.definition is None:
            return {"phase": "Active"}
        return {
            "observedGeneration": metadata["generation"],
            "conditions": self._conditions.of(key, stored, served.kind, metadata),
        }
