"""What a write makes of an object: the document that is stored in its place.

A write is computed again when another writer was faster, so each way of writing is a value that can
be called with whatever is stored by then. Invariant: neither what is stored nor what a client sent
is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dockermesh.kubeapi import last_applied, managed, patches
from dockermesh.kubeapi.cache import Stored
from dockermesh.kubeapi.checking import check_document, check_envelope
from dockermesh.kubeapi.managed import Manager
from dockermesh.kubeapi.objects import stamp
from dockermesh.kubeapi.request import JSON_PATCH, Call
from dockermesh.kubeapi.served import SECRET
from dockermesh.kubeapi.status import StatusCause, apply_conflict, conflict, invalid
from dockermesh.kubeapi.vault import Vault
from dockermesh.kubeapi.view import View


@dataclass(frozen=True, slots=True)
class Revision:
    """A new document of an object, who makes it, and what was applied (None: no apply)."""

    document: dict[str, Any]
    manager: Manager
    applied: Any = None


@dataclass(frozen=True, slots=True)
class Replacement:
    """PUT: the object becomes the document."""

    call: Call
    document: dict[str, Any]

    def __call__(self, _current: Stored) -> Revision:
        return Revision(self.document, self.call.manager())


@dataclass(frozen=True, slots=True)
class Patch:
    """PATCH by a merge patch or a JSON patch, of the object as clients see it."""

    call: Call
    view: View
    kind: str
    body: Any

    def __call__(self, current: Stored) -> Revision:
        call = self.call
        live = self.view(call.served, call.version, call.key, current)
        patched = patches.apply_operations if self.kind == JSON_PATCH else patches.merge
        try:
            changed = patched(live, self.body)
        except patches.PatchError as error:
            raise invalid(call.target, [StatusCause("patch", str(error))]) from error

        document = check_envelope(changed, call.served, call.version)
        call.place(document)
        return Revision(document, call.manager())


@dataclass(frozen=True, slots=True)
class Application:
    """Server-side apply: the object gets what is applied, and keeps what others manage."""

    call: Call
    view: View
    applied: dict[str, Any]
    manager: Manager

    def __call__(self, current: Stored) -> Revision:
        call, manager = self.call, self.manager
        live = self.view(call.served, call.version, call.key, current)
        # Nobody applies a status here: it is the server's own.
        live.pop("status", None)
        merged, conflicts = managed.merge_applied(live, self.applied, manager.name)
        if conflicts and not (
            call.is_forced or last_applied.are_taken_over(live, conflicts, manager.name)
        ):
            raise apply_conflict(conflicts, call.api_version)

        last_applied.keep_current(merged, self.applied, manager.name)
        # The preconditions are those of the client, not what the server just read.
        for field in ("resourceVersion", "uid"):
            merged["metadata"][field] = self.applied["metadata"].get(field, "")
        return Revision(merged, manager, self.applied)

    def created(self) -> Revision:
        """As the first version of the object. Raises StatusError (409) if one was expected."""
        if self.applied["metadata"].get("uid"):
            raise conflict(self.call.target, "uid mismatch: the object does not exist")
        return Revision(self.applied, self.manager, self.applied)


Rewrite = Replacement | Patch | Application


@dataclass(frozen=True, slots=True)
class Completion:
    """Makes revisions into what is stored: checked, stamped, with its managers, Secrets sealed."""

    view: View
    vault: Vault | None

    def __call__(
        self,
        call: Call,
        revision: Revision,
        current: Stored | None,
        warnings: list[str],
    ) -> dict[str, Any]:
        """The document to store in the place of `current`; what its sender should know is added to
        `warnings`. Raises StatusError.
        """
        before = self.view.opened(call.key, current) if current is not None else None
        checked = check_document(revision.document, call.served, call.validation)
        warnings += checked.warnings

        result = {**checked.document, "metadata": dict(checked.document["metadata"])}
        stamp(result, before, call.key)
        if before is not None and not isinstance(
            result["metadata"].get("managedFields"), list
        ):
            # A client that leaves them out wants them to stay; an empty list removes them.
            known = (before.get("metadata") or {}).get("managedFields")
            result["metadata"]["managedFields"] = known or []
        managed.record(before, result, revision.manager, revision.applied)

        if call.served is SECRET and self.vault is not None:
            stored = current.resource if current is not None else None
            return self.vault.close(result, stored, call.key)
        return result
