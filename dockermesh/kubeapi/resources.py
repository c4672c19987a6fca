"""The config API: Istio's resources under Kubernetes' paths, over the config store.

Invariant: nothing is stored that does not validate; an error is an object of kind Status and leaves the old state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from aiohttp import web

from dockermesh.config.documents import read_document
from dockermesh.config.kinds import KINDS, Kind
from dockermesh.errors import RegistryError
from dockermesh.kubeapi.auth import require_token, status

_BY_PLURAL = {(k.group, k.plural): k for k in KINDS}
MAX_BODY_BYTES = 4 << 20


class Stored(Protocol):
    """A stored resource and the number that its next writer has to give."""

    @property
    def resource(self) -> Mapping[str, Any]:
        """The document."""

    @property
    def version(self) -> int:
        """The store's version of it."""


class ConfigStore(Protocol):
    """Where resources are kept, by `<group>/<kind>/<namespace>/<name>`."""

    async def put(self, key: str, resource: Mapping[str, Any], version: int | None = None) -> bool:
        """Write; False if it is not at `version` any more."""

    async def delete(self, key: str, version: int | None = None) -> bool:
        """Remove; False if it is not at `version` any more."""


class Contents(Protocol):
    """The store's contents as last seen."""

    def stored(self) -> Mapping[str, Stored]:
        """All resources by key."""


def key_of(resource: Mapping[str, Any]) -> str:
    """The store's key of a document whose shape is valid."""
    metadata = resource["metadata"]
    group = str(resource["apiVersion"]).partition("/")[0]
    return f"{group}/{resource['kind']}/{metadata.get('namespace') or 'default'}/{metadata['name']}"


def make_api_app(store: ConfigStore, contents: Contents, token: str) -> web.Application:
    """The HTTP application of port 8080: every path wants the token."""
    app = web.Application(middlewares=[require_token(token)], client_max_size=MAX_BODY_BYTES)
    api = _Api(store, contents)
    one = "/apis/{group}/{version}/namespaces/{namespace}/{plural}/{name}"
    app.router.add_get("/apis/{group}/{version}/{plural}", api.list)
    app.router.add_get("/apis/{group}/{version}/namespaces/{namespace}/{plural}", api.list)
    app.router.add_get(one, api.get)
    app.router.add_put(one, api.put)
    app.router.add_delete(one, api.delete)
    return app


class _Api:
    def __init__(self, store: ConfigStore, contents: Contents) -> None:
        self._store = store
        self._contents = contents

    async def list(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        if kind is None:
            return _unknown(request)
        namespace = request.match_info.get("namespace")
        start = f"{kind.group}/{kind.name}/{namespace + '/' if namespace else ''}"
        found = [_document(s) for key, s in sorted(self._contents.stored().items()) if key.startswith(start)]
        return web.json_response(
            {
                "apiVersion": f"{kind.group}/{request.match_info['version']}",
                "kind": f"{kind.name}List",
                "metadata": {},
                "items": found,
            }
        )

    async def get(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        if kind is None:
            return _unknown(request)
        stored = self._contents.stored().get(_key(request, kind))
        return web.json_response(_document(stored)) if stored is not None else _not_found(request, kind)

    async def put(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        if kind is None:
            return _unknown(request)
        try:
            document = await request.json()
        except (ValueError, RecursionError) as error:
            return status(400, "BadRequest", f"the body is not JSON: {error}")
        reading = read_document(document)
        errors = [f for f in reading.findings if f.is_error]
        if errors or not reading.resources:
            return status(422, "Invalid", "; ".join(f"{f.field}: {f.message}" for f in errors) or "not a resource")
        key = _key(request, kind)
        if key_of(document) != key:
            return status(400, "BadRequest", f"the document is {key_of(document)}, the path says {key}")
        before = self._contents.stored().get(key)
        # A write that changes nothing is none: no watcher wakes up.
        if before is None or json.dumps(before.resource, sort_keys=True) != json.dumps(document, sort_keys=True):
            failed = await self._write(key, document)
            if failed is not None:
                return failed
        return web.json_response(document, status=200 if before is not None else 201)

    async def delete(self, request: web.Request) -> web.Response:
        kind = _kind(request)
        if kind is None:
            return _unknown(request)
        key = _key(request, kind)
        if key not in self._contents.stored():
            return _not_found(request, kind)
        failed = await self._write(key, None)
        return failed or web.json_response({"kind": "Status", "apiVersion": "v1", "status": "Success"})

    async def _write(self, key: str, document: Mapping[str, Any] | None) -> web.Response | None:
        try:
            if document is None:
                await self._store.delete(key)
            else:
                await self._store.put(key, document)
        except RegistryError as error:
            return status(503, "ServiceUnavailable", f"{error.what}; nothing was changed")
        return None


def _kind(request: web.Request) -> Kind | None:
    kind = _BY_PLURAL.get((request.match_info["group"], request.match_info["plural"]))
    return kind if kind is not None and request.match_info["version"] in kind.versions else None


def _key(request: web.Request, kind: Kind) -> str:
    return f"{kind.group}/{kind.name}/{request.match_info['namespace']}/{request.match_info['name']}"


def _document(stored: Stored) -> dict[str, Any]:
    document = dict(stored.resource)
    document["metadata"] = dict(document.get("metadata") or {}) | {"resourceVersion": str(stored.version)}
    return document


def _unknown(request: web.Request) -> web.Response:
    return status(404, "NotFound", f"the server could not find the requested resource {request.path}")


def _not_found(request: web.Request, kind: Kind) -> web.Response:
    name = request.match_info["name"]
    return status(404, "NotFound", f'{kind.plural}.{kind.group} "{name}" not found')
