"""The conditions in an object's status: whether the mesh uses it, and how many proxies have what
came of it.

They are computed when an object is read or watched, and never stored: what the mesh does changes no
object and costs nobody who does not look. `Accepted` is False as soon as a part of the object has
no effect; the message says which part and why.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.checking import problems_of
from dockermesh.kubeapi.objects import now

_NAMED = 3
_WORDS = 1000
"""How many proxies a message names, and how much of what one of them says."""
State = tuple[tuple[str, bool, str], ...]
"""Conditions without their messages: the name, whether it holds, and the reason in one word."""


class MeshProgress(Protocol):
    """What the mesh has made of the stored objects."""

    def counts(self) -> tuple[int, int, int]:
        """Connected proxies, and those of them that are behind or refused their config."""

    def findings(self, resource: str) -> Sequence[tuple[str, str]]:
        """What of `Kind namespace/name` has no effect: reasons in one word, and messages."""

    def refusals(self, resource: str) -> Sequence[tuple[str, str]]:
        """The proxies that refuse what came of `Kind namespace/name`, with their words."""

    def has_taken(self, key: str, version: int) -> bool:
        """Whether proxies are served from this version of an object, or a later one."""


class Conditions:
    """Conditions of objects, and since when each of them has been as it is."""

    def __init__(self, progress: MeshProgress | None = None) -> None:
        self._progress = progress
        self._problems: dict[str, tuple[Stored, list[str]]] = {}
        self._since: dict[tuple[str, str], tuple[bool, str]] = {}

    def of(
        self, key: str, stored: Stored, kind: str, metadata: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """The conditions of one object; `metadata` is as clients see it."""
        return [
            {
                "type": name,
                "status": "True" if holds else "False",
                "reason": reason,
                "message": message,
                "lastTransitionTime": self._transition(key, name, holds, metadata),
                "observedGeneration": metadata["generation"],
            }
            for name, holds, reason, message in self._found(key, stored, kind)
        ]

    def state(self, key: str, stored: Stored, kind: str) -> State:
        """What a watcher is told about when it becomes another: not every proxy that is counted in
        a message.
        """
        return tuple(
            (name, holds, reason)
            for name, holds, reason, _ in self._found(key, stored, kind)
        )

    def forget(self, keys: Collection[str]) -> None:
        """Keep only what is known of these."""
        self._problems = {k: v for k, v in self._problems.items() if k in keys}
        self._since = {k: v for k, v in self._since.items() if k[0] in keys}

    def _found(
        self, key: str, stored: Stored, kind: str
    ) -> list[tuple[str, bool, str, str]]:
        damaged = f"the stored value is damaged: {stored.damage}"
        problems = [damaged] if stored.damage else self._problems_of(key, stored)
        namespace, name = key.split("/")[-2:]
        resource = f"{kind} {namespace}/{name}"
        found = [self._accepted(problems, resource)]
        if self._progress is not None:
            found.append(
                _programmed(
                    self._progress, resource, key, stored, is_valid=not problems
                )
            )
        return found

    def _problems_of(self, key: str, stored: Stored) -> list[str]:
        known = self._problems.get(key)
        if known is None or known[0] is not stored:
            known = self._problems[key] = (stored, problems_of(stored.resource))
        return known[1]

    def _accepted(
        self, problems: Sequence[str], resource: str
    ) -> tuple[str, bool, str, str]:
        if problems:
            return "Accepted", False, "Invalid", "; ".join(problems)
        findings = (
            self._progress.findings(resource) if self._progress is not None else ()
        )
        if findings:
            return (
                "Accepted",
                False,
                findings[0][0],
                "; ".join(message for _, message in findings),
            )
        return "Accepted", True, "Valid", ""

    def _transition(
        self, key: str, name: str, holds: bool, metadata: Mapping[str, Any]
    ) -> str:
        """When this became so, as far as anybody looked; before that, when the object was written
        last.
        """
        known = self._since.get((key, name))
        if known is None or known[0] != holds:
            known = self._since[key, name] = (
                holds,
                now() if known is not None else _last_change(metadata),
            )
        return known[1]


def _programmed(
    progress: MeshProgress, resource: str, key: str, stored: Stored, *, is_valid: bool
) -> tuple[str, bool, str, str]:
    """How far the proxies are with the mesh's config as a whole, of which the object is a part.

    What a proxy refuses is held against the objects that it came of, and against no others.
    """
    connected, pending, refused = progress.counts()
    if not is_valid:
        return (
            "Programmed",
            False,
            "Invalid",
            f"0/{connected} proxies have it, as it is not valid",
        )
    if not progress.has_taken(key, stored.version):
        return (
            "Programmed",
            False,
            "Pending",
            f"0/{connected} proxies have it: it is not translated yet",
        )

    refusals = progress.refusals(resource)
    reason = "Refused" if refusals else "Pending" if pending else "Programmed"
    text = (
        f"{connected - pending - refused}/{connected} proxies run the latest configuration of the"
        " mesh"
    )
    if refusals:
        text += f"; {_refused(refusals)}"
    elif refused:
        text += f"; {refused} refused what came of another resource (see dockermesh proxy-status)"

    return "Programmed", not pending and not refusals, reason, text


def _refused(refusals: Sequence[tuple[str, str]]) -> str:
    """Who refuses it, in the words of the first."""
    names = list(dict.fromkeys(name for name, _ in refusals))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"refused by {', '.join(names[:_NAMED])}{more}: {refusals[0][1][:_WORDS]}"


def _last_change(metadata: Mapping[str, Any]) -> str:
    times = [str(metadata.get("creationTimestamp") or "")]
    managed = metadata.get("managedFields")
    if isinstance(managed, list):
        times += [
            str(entry.get("time") or "") for entry in managed if isinstance(entry, dict)
        ]
    return max(times) or "1970-01-01T00:00:00Z"
