"""The operations on objects: get, list, watch, create, update, patch, apply and delete, over cache
and writer.

Invariant: nothing is stored that does not validate; what is refused, or fails, leaves the old
state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web

from dockermesh.kubeapi.cache import ObjectCache, Stored
from dockermesh.kubeapi.checking import check_envelope
from dockermesh.kubeapi.conditions import State
from dockermesh.kubeapi.objects import check_preconditions, generated_name
from dockermesh.kubeapi.request import (
    APPLY_PATCH,
    JSON,
    JSON_PATCH,
    MERGE_PATCH,
    PROTOBUF,
    STRATEGIC_PATCH,
    YAML,
    Call,
    read_body,
    read_call,
)
from dockermesh.kubeapi.revisions import (
    Application,
    Completion,
    Patch,
    Replacement,
    Revision,
    Rewrite,
)
from dockermesh.kubeapi.selectors import parse_selectors
from dockermesh.kubeapi.served import NAMESPACE, SECRET
from dockermesh.kubeapi.status import (
    StatusCause,
    StatusError,
    already_exists,
    bad_request,
    deleted,
    invalid,
    not_found,
    unavailable,
)
from dockermesh.kubeapi.tables import table, wants_table
from dockermesh.kubeapi.vault import Vault
from dockermesh.kubeapi.view import View
from dockermesh.kubeapi.watching import WatchRequest, serve_watch, start_of
from dockermesh.kubeapi.writer import Compute, Writer, Written

_MAX_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class _Implicit:
    """A namespace that nobody created: it exists because it is in use."""

    resource: Mapping[str, Any]
    version: int = 0
    damage: str = ""
    is_lost: bool = False


class Api:
    """Handlers of objects' paths."""

    def __init__(
        self,
        writer: Writer,
        cache: ObjectCache,
        view: View,
        vault: Vault | None,
        why_unread: Callable[[], str],
    ) -> None:
        self._writer = writer
        self._vault = vault
        self._complete = Completion(view, vault)
        self._cache = cache
        self._view = view
        self._why_unread = why_unread

    # reading
    # ----------------------------------------------------------------------------------------------

    async def get(self, request: web.Request) -> web.StreamResponse:
        """One object."""
        call = self._call(request)
        stored = self._current(call)
        if stored is None:
            raise not_found(call.target)
        return self._show(request, call, stored)

    async def collection(self, request: web.Request) -> web.StreamResponse:
        """A collection, or its changes."""
        call = self._call(request)
        matches = parse_selectors(
            call.query.get("labelSelector", ""), call.query.get("fieldSelector", "")
        )
        # kubectl asks for a table unless it was told -o yaml or json.
        as_table = wants_table(request.headers.get("Accept", ""))
        include = call.query.get("includeObject", "Metadata")
        if call.query.get("watch") in {"true", "1", ""} and "watch" in call.query:
            return await serve_watch(
                request, self._cache, self._watch(call, matches, as_table, include)
            )

        version = str(self._cache.version)
        found = [d for d in self._documents(call) if matches is None or matches(d)]
        if as_table:
            return web.json_response(table(call.served, found, version, include))

        return web.json_response(
            {
                "apiVersion": call.api_version,
                "kind": f"{call.served.kind}List",
                "metadata": {"resourceVersion": version},
                "items": found,
            }
        )

    def _watch(
        self, call: Call, matches: Any, as_table: bool, include: str
    ) -> WatchRequest:
        def show(key: str, stored: Stored, version: int) -> dict[str, Any]:
            return self._view(call.served, call.version, key, stored, version)

        def state(key: str, stored: Stored) -> State:
            return self._view.state(call.served, key, stored)

        def wrap(document: dict[str, Any]) -> dict[str, Any]:
            return table(
                call.served,
                [document],
                document["metadata"]["resourceVersion"],
                include,
            )

        seconds = call.query.get("timeoutSeconds", "")
        prefix = call.key if call.name else call.prefix
        return WatchRequest(
            prefix=prefix,
            start=start_of(call.query),
            seconds=(
                float(seconds)
                if seconds.isascii() and seconds.isdigit() and len(seconds) < 9
                else 0.0
            ),
            bookmarks=call.query.get("allowWatchBookmarks") in {"true", "1"},
            initial_end=call.query.get("sendInitialEvents") == "true",
            matches=matches,
            bare={"kind": call.served.kind, "apiVersion": call.api_version},
            show=show,
            state=state if call.served.definition is not None else None,
            wrap=wrap if as_table else lambda document: document,
        )

    def _documents(self, call: Call) -> Iterator[dict[str, Any]]:
        # A list shows one moment, whatever is written meanwhile.
        objects = dict(self._cache.objects)
        self._view.forget(objects)
        if call.served is NAMESPACE:
            for name in self._namespaces():
                objects.setdefault(NAMESPACE.key("", name), _implicit(name))
        for key, stored in sorted(objects.items()):
            if key.startswith(call.prefix):
                yield self._view(call.served, call.version, key, stored)

    def _namespaces(self) -> set[str]:
        return {"default", *(key.split("/")[2] for key in self._cache.objects)}

    def _current(self, call: Call) -> Stored | None:
        return self._or_implicit(call, self._cache.objects.get(call.key))

    def _or_implicit(self, call: Call, stored: Stored | None) -> Stored | None:
        if (
            stored is None
            and call.served is NAMESPACE
            and call.name in self._namespaces()
        ):
            return _implicit(call.name)
        return stored

    # writing
    # ----------------------------------------------------------------------------------------------

    async def create(self, request: web.Request) -> web.StreamResponse:
        """POST to a collection."""
        call = self._call(request)
        _, body = await read_body(
            request, JSON, YAML, *([PROTOBUF] if not call.served.group else [])
        )
        document = check_envelope(body, call.served, call.version)
        metadata = document["metadata"]
        # It would be a precondition on an object that does not exist yet.
        if metadata.get("resourceVersion"):
            raise bad_request(
                "resourceVersion should not be set on objects to be created"
            )
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = generated_name(metadata["generateName"])
        if not metadata.get("name"):
            text = "Required value: name or generateName is required"
            cause = StatusCause("metadata.name", text, "FieldValueRequired")
            raise invalid(replace(call, name="").target, [cause])

        call = replace(call, name=metadata["name"])
        call.place(document)
        revision = Revision(document, call.manager())
        warnings: list[str] = []

        def compute(current: Stored | None) -> dict[str, Any]:
            if current is not None:
                raise already_exists(call.target)
            return self._complete(call, revision, None, warnings)

        return self._answer(request, call, await self._write(call, compute), warnings)

    async def replace(self, request: web.Request) -> web.StreamResponse:
        """PUT of an object that exists."""
        call = self._call(request)
        _, body = await read_body(request, JSON, YAML)
        document = check_envelope(body, call.served, call.version)
        call.place(document)
        return await self._update(request, call, Replacement(call, document))

    async def patch(self, request: web.Request) -> web.StreamResponse:
        """PATCH by a merge patch, a JSON patch or an apply."""
        call = self._call(request)
        accepted = [MERGE_PATCH, JSON_PATCH, APPLY_PATCH]
        if not call.served.group:
            # kubectl patches the kinds that it knows itself so. It is the same as a merge patch, as
            # all fields of Namespaces and Secrets are mappings of texts.
            accepted.append(STRATEGIC_PATCH)
        kind, body = await read_body(request, *accepted)
        if kind == APPLY_PATCH:
            return await self._apply(request, call, body)

        return await self._update(request, call, Patch(call, self._view, kind, body))

    async def _apply(
        self, request: web.Request, call: Call, body: Any
    ) -> web.StreamResponse:
        applied = check_envelope(body, call.served, call.version)
        call.place(applied)
        if applied["metadata"].pop("managedFields", None):
            raise bad_request("metadata.managedFields must be nil")

        application = Application(call, self._view, applied, call.applier())
        warnings: list[str] = []
        compute = self._computing(call, application, warnings)
        written = await self._write(call, compute)
        return self._answer(request, call, written, warnings)

    async def _update(
        self, request: web.Request, call: Call, rewrite: Rewrite
    ) -> web.StreamResponse:
        warnings: list[str] = []
        written = await self._write(call, self._computing(call, rewrite, warnings))
        return self._answer(request, call, replace(written, created=False), warnings)

    async def _write(self, call: Call, compute: Compute) -> Written:
        return await self._writer.write(
            call.key, call.target, compute, call.actor, dry_run=call.is_dry_run
        )

    def _computing(self, call: Call, rewrite: Rewrite, warnings: list[str]) -> Compute:
        """How the writer gets the new document; `warnings` are those of its last attempt."""

        def compute(current: Stored | None) -> dict[str, Any]:
            warnings.clear()
            known = self._or_implicit(call, current)
            if known is not None:
                revision = rewrite(known)
                check_preconditions(
                    revision.document["metadata"], known, call.key, call.target
                )
            elif isinstance(rewrite, Application):
                revision = rewrite.created()
            else:
                raise not_found(call.target)
            return self._complete(call, revision, known, warnings)

        return compute

    # removing
    # ----------------------------------------------------------------------------------------------

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """DELETE of an object; of a namespace: with all that is in it."""
        call = self._call(request)
        options = await _delete_options(request)
        # kubectl says it in the body, other clients in the query.
        dry_run = call.is_dry_run or "All" in (options.get("dryRun") or ())
        if call.served is NAMESPACE:
            implicit = self._current(call)
            await self._empty_namespace(call, dry_run)
            if implicit is not None and call.key not in self._cache.objects:
                return web.json_response(_removed(call, implicit))
        written = await self._remove(call, options.get("preconditions") or {}, dry_run)
        return web.json_response(_removed(call, written))

    async def delete_collection(self, request: web.Request) -> web.StreamResponse:
        """DELETE of what selectors find in a namespace."""
        call = self._call(request)
        options = await _delete_options(request)
        dry_run = call.is_dry_run or "All" in (options.get("dryRun") or ())
        matches = parse_selectors(
            call.query.get("labelSelector", ""), call.query.get("fieldSelector", "")
        )
        if call.served is NAMESPACE:
            # As in Kubernetes; each would take with it all that is in it.
            raise StatusError(
                405, "MethodNotAllowed", "namespaces are deleted one by one"
            )

        found = [d for d in self._documents(call) if matches is None or matches(d)]
        for document in found:
            metadata = document["metadata"]
            await self._remove(
                replace(call, namespace=metadata["namespace"], name=metadata["name"]),
                {},
                dry_run,
            )

        return web.json_response(
            {
                "apiVersion": call.api_version,
                "kind": f"{call.served.kind}List",
                "metadata": {"resourceVersion": str(self._cache.version)},
                "items": found,
            }
        )

    async def _remove(
        self, call: Call, preconditions: Mapping[str, Any], dry_run: bool
    ) -> Written:
        def compute(current: Stored | None) -> None:
            known = self._or_implicit(call, current)
            if known is None:
                raise not_found(call.target)
            check_preconditions(preconditions, known, call.key, call.target)

        return await self._writer.write(
            call.key, call.target, compute, call.actor, dry_run=dry_run
        )

    async def _empty_namespace(self, call: Call, dry_run: bool) -> None:
        # As in Kubernetes: it is where everything goes that names none.
        if call.name == "default":
            raise StatusError(
                403,
                "Forbidden",
                f"{call.target.title} is forbidden: this namespace may not be deleted",
            )
        if self._current(call) is None:
            raise not_found(call.target)
        inside = [
            k
            for k in self._cache.objects
            if k.split("/")[2] == call.name and k != call.key
        ]
        for key in inside:
            await self._writer.write(
                key, call.target, lambda _current: None, call.actor, dry_run=dry_run
            )

    # answers
    # ----------------------------------------------------------------------------------------------

    def _call(self, request: web.Request) -> Call:
        if not self._cache.is_read:
            raise unavailable(
                f"the config store has not been read yet {self._why_unread()}".rstrip()
            )
        call = read_call(request)
        if call.served is SECRET and self._vault is None:
            raise StatusError(
                403,
                "Forbidden",
                "Secrets are served only where the API wants a token (--api-auth token)",
            )
        return call

    def _answer(
        self, request: web.Request, call: Call, written: Written, warnings: list[str]
    ) -> web.StreamResponse:
        response = self._show(request, call, written, 201 if written.created else 200)
        for text in warnings[:_MAX_WARNINGS]:
            response.headers.add("Warning", f'299 - "{_quoted(text)}"')
        return response

    def _show(
        self, request: web.Request, call: Call, stored: Stored, code: int = 200
    ) -> web.Response:
        document = (
            self._view.planned(
                call.served, call.version, call.key, stored, self._current(call)
            )
            if call.is_dry_run
            else self._view(call.served, call.version, call.key, stored)
        )
        if wants_table(request.headers.get("Accept", "")):
            version = document["metadata"]["resourceVersion"]
            document = table(
                call.served,
                [document],
                version,
                call.query.get("includeObject", "Metadata"),
            )
        return web.json_response(document, status=code)


def _removed(call: Call, stored: Stored) -> dict[str, Any]:
    return deleted(call.target, (stored.resource.get("metadata") or {}).get("uid", ""))


def _quoted(text: str) -> str:
    """A text within a quoted string of a header."""
    plain = "".join(c if c.isprintable() else " " for c in text)[:500]
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _implicit(name: str) -> _Implicit:
    metadata = {"name": name, "labels": {"kubernetes.io/metadata.name": name}}
    return _Implicit({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})


async def _delete_options(request: web.Request) -> dict[str, Any]:
    if not request.can_read_body:
        return {}
    _, body = await read_body(request, JSON, YAML)
    if body is not None and not isinstance(body, dict):
        raise bad_request("the body must be DeleteOptions")
    return body or {}
