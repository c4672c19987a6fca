"""Stored values that cannot be used: what is wrong with them, and what is left of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dockermesh.config.closing import closes
from dockermesh.config.documents import read_document
from dockermesh.config.kinds import kind_named
from dockermesh.registry.protocols import StoredResource


def document_problem(key: str, document: Mapping[str, Any]) -> str:
    """Why a document is not the valid resource that its key names; empty if it is.

    Kinds that are not Istio's, such as Secrets, have checks of their own.
    """
    _group, kind, namespace, name = key_parts(key)
    if kind_named(kind) is None:
        return ""

    metadata = document.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    told = (
        document.get("kind"),
        metadata.get("namespace", namespace),
        metadata.get("name", name),
    )
    if told != (kind, namespace, name):
        return "it is another resource than its key says"

    errors = (f for f in read_document(document).findings if f.is_error)
    return next((f"{f.field}: {f.message}".removeprefix(": ") for f in errors), "")


def lost_resource(key: str, version: int, damage: str) -> StoredResource:
    """A resource of which only the name is known: it can be listed, replaced and deleted."""
    group, kind, namespace, name = key_parts(key)
    resource = {
        "apiVersion": f"{group}/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
    }
    return StoredResource(key, resource, version, damage, is_lost=True)


def damage_sentence(resources: Iterable[StoredResource]) -> str:
    """What to say of the damaged ones; empty if there is none."""
    damaged = [item for item in resources if item.damage]
    if not damaged:
        return ""

    first = damaged[0]
    more = f" (and {len(damaged) - 1} more)" if len(damaged) > 1 else ""
    used = _instead(first) if first.is_lost else "its last good content is used"
    return (
        f"The stored value of {first.key}{more} is damaged ({first.damage}); {used}."
        " Apply it again, or delete it."
    )


def _instead(item: StoredResource) -> str:
    _group, kind, _namespace, _name = key_parts(item.key)
    if kind == "PeerAuthentication":
        return "what it may have selected takes mutual TLS alone"
    return "what it may have selected is closed" if closes(kind) else "it has no effect"


def key_parts(key: str) -> list[str]:
    """Group, kind, namespace and name."""
    # Whoever writes into the store by hand may write any key.
    return [*key.split("/", 3), "", "", ""][:4]
