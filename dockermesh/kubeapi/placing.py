"""Where an object belongs, and the words of answers about it."""

from __future__ import annotations

from typing import Any

from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.managed import Conflict
from dockermesh.kubeapi.request import Call
from dockermesh.kubeapi.status import Cause, Failure, bad_request


def place(document: dict[str, Any], call: Call) -> None:
    """Make the document say where its path puts it. Raises Failure (400) if it says something
    else.
    """
    metadata = document["metadata"]
    if metadata.setdefault("name", call.name) != call.name:
        raise bad_request(
            f"the name of the object ({metadata['name']}) does not match the name on the URL"
            f" ({call.name})"
        )
    if not call.served.namespaced:
        metadata.pop("namespace", None)
    elif (metadata.get("namespace") or call.namespace) != call.namespace:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    else:
        metadata["namespace"] = call.namespace


def apply_conflict(call: Call, conflicts: list[Conflict]) -> Failure:
    """409 for an apply that would change what others manage."""
    causes = [
        Cause(
            "." + ".".join(c.path),
            f'conflict with "{c.manager}" using {call.api_version}',
            "FieldManagerConflict",
        )
        for c in conflicts
    ]
    names = sorted({f'"{c.manager}"' for c in conflicts})
    paths = "\n".join(f"- {cause.field}" for cause in causes)
    count = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
    text = (
        f"Apply failed with {count}: conflict{'s' if len(causes) > 1 else ''} with"
        f" {', '.join(names)}:\n{paths}"
    )
    return Failure(409, "Conflict", text, {"causes": [c.to_dict() for c in causes]})


def deleted(call: Call, stored: Stored) -> dict[str, Any]:
    """The Status after a removal."""
    details = call.target.details(uid=(stored.resource.get("metadata") or {}).get("uid", ""))
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": details,
    }


def quoted(text: str) -> str:
    """A text within a quoted string of a header."""
    plain = "".join(c if c.isprintable() else " " for c in text)[:500]
    return plain.replace("\\", "\\\\").replace('"', '\\"')
