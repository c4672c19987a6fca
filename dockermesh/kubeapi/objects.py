"""What the server writes into objects when they are stored: identity and versions.

Invariant: uid and creationTimestamp never change while an object exists, and generation counts
changes of its content.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.status import Target, conflict
from dockermesh.model.times import time_text

# Kubernetes' letters: without vowels they make no words.
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_KEPT = ("uid", "creationTimestamp", "generation")


def now(ago_s: float = 0.0) -> str:
    """The time as Kubernetes writes it, or that of so many seconds ago; such texts are ordered as
    their times are.
    """
    return time_text(datetime.now(UTC) - timedelta(seconds=ago_s))


def generated_name(prefix: str) -> str:
    """A name from `generateName`."""
    # 63 characters are the most that a label may have.
    return prefix[:58] + "".join(secrets.choice(_LETTERS) for _ in range(5))


def stamp(document: dict[str, Any], before: Mapping[str, Any] | None, key: str) -> None:
    """Set what only the server sets, in place."""
    metadata = document["metadata"]
    metadata.pop("resourceVersion", None)
    # Kubernetes does not fill it in since 1.20, but old exports have it.
    metadata.pop("selfLink", None)
    if before is None:
        metadata |= {
            "uid": str(uuid.uuid4()),
            "creationTimestamp": now(),
            "generation": 1,
        }
        return

    old = before.get("metadata") or {}
    for field in _KEPT:
        metadata.pop(field, None)
    metadata["uid"] = old.get("uid") or derived_uid(key)
    if old.get("creationTimestamp"):
        metadata["creationTimestamp"] = old["creationTimestamp"]
    generation = old.get("generation")
    # Objects that came by another way have none.
    generation = generation if isinstance(generation, int) else 1
    metadata["generation"] = generation + (content(before) != content(document))


def content(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a generation counts: all but metadata and status."""
    return {
        k: v
        for k, v in document.items()
        if k not in {"apiVersion", "metadata", "status"}
    }


def derived_uid(key: str) -> str:
    """The uid of an object that came into the store by another way."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"dockermesh:{key}"))


def check_preconditions(
    metadata: Mapping[str, Any], stored: Stored, key: str, target: Target
) -> None:
    """Refuse a write that is based on another version or object. Raises StatusError (409)."""
    version, uid = metadata.get("resourceVersion"), metadata.get("uid")
    if version and version != str(stored.version):
        raise conflict(target)
    known = (stored.resource.get("metadata") or {}).get("uid") or derived_uid(key)
    if uid and uid != known:
        raise conflict(
            target,
            f"Precondition failed: UID in precondition: {uid}, UID in object meta: {known}",
        )
