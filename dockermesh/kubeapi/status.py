"""Failures as Kubernetes' clients expect them: an object of kind Status.

Invariant: every answer of the config API that is not 2xx is one of these, so kubectl always has a
reason to print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockermesh.http.answers import status_object
from dockermesh.kubeapi.managed import Conflict


@dataclass(frozen=True, slots=True)
class StatusCause:
    """What is wrong with one field. `reason` is one of Kubernetes' words, such as
    FieldValueInvalid.
    """

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def to_dict(self) -> dict[str, str]:
        """A JSON object."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


class StatusError(Exception):
    """A request that is answered with a Status."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def to_dict(self) -> dict[str, Any]:
        """The Status object."""
        return status_object(self.code, self.reason, self.message, self.details)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about, in the words of messages."""

    group: str
    plural: str
    kind: str
    name: str

    @property
    def title(self) -> str:
        """`virtualservices.networking.istio.io "reviews"`."""
        qualified = f"{self.plural}.{self.group}" if self.group else self.plural
        return f'{qualified} "{self.name}"'

    def details(self, **more: Any) -> dict[str, Any]:
        """The `details` of a Status."""
        return {"name": self.name, "group": self.group, "kind": self.plural, **more}


def deleted(target: Target, uid: str) -> dict[str, Any]:
    """The Status after a removal."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": target.details(uid=uid),
    }


def bad_request(message: str) -> StatusError:
    """400."""
    return StatusError(400, "BadRequest", message)


def unknown_path(path: str) -> StatusError:
    """404 for what is served to nobody."""
    return StatusError(
        404,
        "NotFound",
        f"the server could not find the requested resource ({path})",
        {},
    )


def not_found(target: Target) -> StatusError:
    """404 for an object."""
    return StatusError(404, "NotFound", f"{target.title} not found", target.details())


def already_exists(target: Target) -> StatusError:
    """409 for a create."""
    return StatusError(
        409, "AlreadyExists", f"{target.title} already exists", target.details()
    )


def conflict(
    target: Target, message: str = "", causes: Sequence[StatusCause] = ()
) -> StatusError:
    """409 for a write that is based on an old version."""
    text = message or (
        "the object has been modified; please apply your changes to the latest version and try"
        " again"
    )
    more = {"causes": [c.to_dict() for c in causes]} if causes else {}
    return StatusError(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {target.title}: {text}",
        target.details(**more),
    )


def apply_conflict(conflicts: Sequence[Conflict], api_version: str) -> StatusError:
    """409 for an apply that would change what others manage; kubectl prints the causes."""
    causes = [
        StatusCause(
            "." + ".".join(conflict.path),
            f'conflict with "{conflict.manager}" using {api_version}',
            "FieldManagerConflict",
        )
        for conflict in conflicts
    ]
    names = ", ".join(sorted({f'"{conflict.manager}"' for conflict in conflicts}))
    paths = "\n".join(f"- {cause.field}" for cause in causes)
    noun = "conflicts" if len(causes) > 1 else "conflict"
    text = f"Apply failed with {len(causes)} {noun}: {noun} with {names}:\n{paths}"
    return StatusError(
        409, "Conflict", text, {"causes": [cause.to_dict() for cause in causes]}
    )


def invalid(target: Target, causes: Sequence[StatusCause]) -> StatusError:
    """422: the object breaks the kind's rules."""
    texts = [f"{c.field}: {c.message}" for c in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    # Kubernetes names the kind here, and the plural in other messages.
    qualified = f"{target.kind}.{target.group}" if target.group else target.kind
    details = target.details(causes=[c.to_dict() for c in causes]) | {
        "kind": target.kind
    }
    return StatusError(
        422, "Invalid", f'{qualified} "{target.name}" is invalid: {listed}', details
    )


def expired(version: int, oldest: int) -> StatusError:
    """410: a watch from a version whose successors are forgotten."""
    # On 410 clients list again.
    return StatusError(
        410, "Expired", f"too old resource version: {version} ({oldest})"
    )


def unavailable(message: str) -> StatusError:
    """503: the store cannot be used just now."""
    return StatusError(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})
