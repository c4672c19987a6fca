"""What the server writes into objects: identity and versions when they are stored, status when they are read.

Invariant: uid and creationTimestamp never change while an object exists, and generation counts changes of its content.
"""

from __future__ import annotations

import copy
import secrets
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.checking import problems_of
from dockermesh.kubeapi.served import Served
from dockermesh.kubeapi.status import Target, conflict

Sync = Callable[[], tuple[int, int, int]]
"""Connected proxies, and those of them that are behind or refused their config."""
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_KEPT = ("uid", "creationTimestamp", "generation")


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def generated_name(prefix: str) -> str:
    """A name from `generateName`."""
    return prefix[:58] + "".join(secrets.choice(_LETTERS) for _ in range(5))


def stamp(document: dict[str, Any], before: Mapping[str, Any] | None, key: str) -> None:
    """Set what only the server sets, in place."""
    metadata = document["metadata"]
    metadata.pop("resourceVersion", None)
    metadata.pop("selfLink", None)
    if before is None:
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        return
    old = before.get("metadata") or {}
    for field in _KEPT:
        metadata.pop(field, None)
    metadata["uid"] = old.get("uid") or derived_uid(key)
    if old.get("creationTimestamp"):
        metadata["creationTimestamp"] = old["creationTimestamp"]
    generation = old.get("generation")
    generation = generation if isinstance(generation, int) else 1
    metadata["generation"] = generation + (content(before) != content(document))


def content(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a generation counts: all but metadata and status."""
    return {k: v for k, v in document.items() if k not in {"apiVersion", "metadata", "status"}}


def derived_uid(key: str) -> str:
    """The uid of an object that came into the store by another way."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"dockermesh:{key}"))


def check_preconditions(metadata: Mapping[str, Any], stored: Stored, key: str, target: Target) -> None:
    """Refuse a write that is based on another version or another object. Raises Failure (409)."""
    version, uid = metadata.get("resourceVersion"), metadata.get("uid")
    if version and version != str(stored.version):
        raise conflict(target)
    known = (stored.resource.get("metadata") or {}).get("uid") or derived_uid(key)
    if uid and uid != known:
        raise conflict(target, f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}")


class View:
    """Stored objects as clients see them."""

    def __init__(self, sync: Sync | None = None) -> None:
        self._sync = sync
        self._problems: dict[str, tuple[Stored, list[str]]] = {}

    def __call__(self, served: Served, version: str, key: str, stored: Stored, at: int | None = None) -> dict[str, Any]:
        """The object in a version of its group; `at` is its resourceVersion, where it is another than its own."""
        document = copy.deepcopy(dict(stored.resource))
        document["apiVersion"], document["kind"] = served.api_version(version), served.kind
        namespace, name = key.split("/")[-2:]
        metadata = document["metadata"] = dict(document.get("metadata") or {})
        metadata["name"] = name
        if served.namespaced:
            metadata["namespace"] = namespace
        metadata.setdefault("uid", derived_uid(key))
        metadata["resourceVersion"] = str(stored.version if at is None else at)
        metadata.setdefault("generation", 1)
        ordered: dict[str, Any] = {k: document[k] for k in ("apiVersion", "kind", "metadata") if k in document}
        ordered |= {k: v for k, v in document.items() if k not in ordered and k != "status"}
        ordered["status"] = {"phase": "Active"} if served.definition is None else self._status(key, stored, metadata)
        return ordered

    def forget(self, keys: Mapping[str, Stored]) -> None:
        """Keep only what is known of these."""
        self._problems = {k: v for k, v in self._problems.items() if k in keys}

    def _status(self, key: str, stored: Stored, metadata: Mapping[str, Any]) -> dict[str, Any]:
        known = self._problems.get(key)
        if known is None or known[0] is not stored:
            known = self._problems[key] = (stored, problems_of(stored.resource))
        problems = known[1]
        since = _last_change(metadata)
        generation = metadata["generation"]
        conditions = [
            _condition("Accepted", not problems, "Invalid" if problems else "Valid", "; ".join(problems), since)
        ]
        if self._sync is not None and not problems:
            conditions.append(_synced(*self._sync(), since=since))
        return {
            "observedGeneration": generation,
            "conditions": [c | {"observedGeneration": generation} for c in conditions],
        }


def _synced(connected: int, pending: int, refused: int, *, since: str) -> dict[str, Any]:
    """How far the proxies are with the mesh's config as a whole, of which the object is a part."""
    reason = "Refused" if refused else "Pending" if pending else "Synced"
    text = f"{connected - pending - refused} of {connected} proxies run the latest configuration of the mesh"
    text += f"; {refused} refused it (see dockermesh ps)" if refused else ""
    return _condition("Synced", not pending and not refused, reason, text, since)


def _condition(name: str, holds: bool, reason: str, message: str, since: str) -> dict[str, Any]:
    state = "True" if holds else "False"
    return {"type": name, "status": state, "reason": reason, "message": message, "lastTransitionTime": since}


def _last_change(metadata: Mapping[str, Any]) -> str:
    times = [str(metadata.get("creationTimestamp") or "")]
    managed = metadata.get("managedFields")
    if isinstance(managed, list):
        times += [str(entry.get("time") or "") for entry in managed if isinstance(entry, dict)]
    return max(times) or "1970-01-01T00:00:00Z"
