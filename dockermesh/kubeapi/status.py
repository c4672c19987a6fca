"""Failures as Kubernetes' clients expect them: an object of kind Status.

Invariant: every answer of the config API that is not 2xx is one of these, so kubectl always has a
reason to print.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dockermesh.http.answers import status_object


@dataclass(frozen=True, slots=True)
class Cause:
    """What is wrong with one field. `reason` is one of Kubernetes' words, such as
    FieldValueInvalid.
    """

    field: str
    message: str
    reason: str = "FieldValueInvalid"

    def to_dict(self) -> dict[str, str]:
        """A JSON object."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


class Failure(Exception):
    """A request that is answered with a Status."""

    def __init__(
        self, code: int, reason: str, message: str, details: Mapping[str, Any] | None = None
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


def bad_request(message: str) -> Failure:
    """400."""
    return Failure(400, "BadRequest", message)


def unknown_path(path: str) -> Failure:
    """404 for what is served to nobody."""
    return Failure(
        404, "NotFound", f"the server could not find the requested resource ({path})", {}
    )


def not_found(target: Target) -> Failure:
    """404 for an object."""
    return Failure(404, "NotFound", f"{target.title} not found", target.details())


def already_exists(target: Target) -> Failure:
    """409 for a create."""
    return Failure(409, "AlreadyExists", f"{target.title} already exists", target.details())


def conflict(target: Target, message: str = "", causes: Sequence[Cause] = ()) -> Failure:
    """409 for a write that is based on an old version."""
    text = message or (
        "the object has been modified; please apply your changes to the latest version and try"
        " again"
    )
    more = {"causes": [c.to_dict() for c in causes]} if causes else {}
    return Failure(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {target.title}: {text}",
        target.details(**more),
    )


def invalid(target: Target, causes: Sequence[Cause]) -> Failure:
    """422: the object breaks the kind's rules."""
    texts = [f"{c.field}: {c.message}" for c in causes]
    listed = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{target.kind}.{target.group}" if target.group else target.kind
    details = target.details(causes=[c.to_dict() for c in causes]) | {"kind": target.kind}
    return Failure(422, "Invalid", f'{qualified} "{target.name}" is invalid: {listed}', details)


def expired(version: int, oldest: int) -> Failure:
    """410: a watch from a version whose successors are forgotten."""
    return Failure(410, "Expired", f"too old resource version: {version} ({oldest})")


def unavailable(message: str) -> Failure:
    """503: the store cannot be used just now."""
    return Failure(503, "ServiceUnavailable", message, {"retryAfterSeconds": 1})
