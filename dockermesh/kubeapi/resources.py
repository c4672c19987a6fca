"""The config API's HTTP application: Istio's resources under Kubernetes' paths, so that stock
kubectl works.

Invariant: every path wants authentication, and every failure is answered with a Status object.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import structlog
from aiohttp import web

from dockermesh.ca import Seal
from dockermesh.http.answers import status_object
from dockermesh.http.auth import Handler, TokenGate, refuse_browsers, require_token
from dockermesh.kubeapi import discovery, openapi
from dockermesh.kubeapi.api import Api
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.conditions import MeshProgress
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.rollback import RollbackApi
from dockermesh.kubeapi.served import groups
from dockermesh.kubeapi.status import StatusError, unknown_path
from dockermesh.kubeapi.vault import Vault
from dockermesh.kubeapi.view import View
from dockermesh.kubeapi.writer import Writer
from dockermesh.registry import ConfigStore

MAX_BODY_BYTES = 4 << 20
# kubectl accepts an empty document under this type, and fails on any other answer.
_OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_log = structlog.get_logger(__name__)


def make_api_app(
    store: ConfigStore,
    cache: ObjectCache,
    token: str | None,
    *,
    history: History | None = None,
    progress: MeshProgress | None = None,
    vault: Vault | None = None,
    why_unread: Callable[[], str] = lambda: "",
    version: str = "",
    open_paths: frozenset[str] = frozenset(),
) -> web.Application:
    """The HTTP application of port 8080. Without a token anybody may use it, except web pages.

    `open_paths` check for themselves who asks. Without a vault, Secrets are sealed with a key that
    is forgotten when the process ends; where anybody may ask, they are not served at all.
    """
    guard = (
        refuse_browsers()
        if token is None
        else require_token(TokenGate(token), open_paths=open_paths)
    )
    app = web.Application(middlewares=[_as_status, guard], client_max_size=MAX_BODY_BYTES)
    _add_discovery(app.router, version, is_anonymous=token is None)
    writer = Writer(store, cache, history)
    safe = (
        None
        if token is None
        else vault or Vault(Seal(secrets.token_bytes(32), is_passphrase=False, where="memory"))
    )
    _add_objects(app.router, Api(writer, cache, View(progress, safe), safe, why_unread))
    if history is not None:
        RollbackApi(history, writer, cache).add_to(app.router)

    async def end_watches(_app: web.Application) -> None:
        cache.close()

    app.on_shutdown.append(end_watches)
    return app


def _add_objects(router: web.UrlDispatcher, api: Api) -> None:
    core = "/api/v1/namespaces"
    for collection in (
        "/apis/{group}/{version}/namespaces/{namespace}/{plural}",
        core,
        core + "/{namespace}/{plural}",
    ):
        router.add_get(collection, api.collection)
        router.add_post(collection, api.create)
        router.add_delete(collection, api.delete_collection)
        router.add_get(collection + "/{name}", api.get)
        router.add_put(collection + "/{name}", api.replace)
        router.add_patch(collection + "/{name}", api.patch)
        router.add_delete(collection + "/{name}", api.delete)

    router.add_get("/apis/{group}/{version}/{plural}", api.collection)
    router.add_delete("/apis/{group}/{version}/{plural}", api.delete_collection)
    router.add_get("/api/v1/{plural}", api.collection)


def _add_discovery(router: web.UrlDispatcher, version: str, *, is_anonymous: bool) -> None:
    async def root(_request: web.Request) -> web.Response:
        found = [f"/apis/{g}/{v}" for g, versions in groups().items() for v in versions]
        return web.json_response(
            {"paths": ["/api", "/api/v1", "/apis", *found, "/openapi/v3", "/version"]}
        )

    async def core(request: web.Request) -> web.Response:
        return web.json_response(discovery.core_versions(request.host))

    async def all_groups(_request: web.Request) -> web.Response:
        return web.json_response(discovery.group_list())

    async def group(request: web.Request) -> web.Response:
        if request.match_info["group"] not in groups():
            raise unknown_path(request.path)
        return web.json_response(discovery.group_object(request.match_info["group"]))

    async def resources(request: web.Request) -> web.Response:
        return web.json_response(discovery.resource_list(*_group_version(request)))

    async def schema(request: web.Request) -> web.Response:
        return web.json_response(openapi.document(*_group_version(request)))

    async def schemas(_request: web.Request) -> web.Response:
        return web.json_response(openapi.index())

    async def schema_v2(_request: web.Request) -> web.Response:
        return web.Response(body=b"", headers={"Content-Type": _OPENAPI_V2})

    async def about(_request: web.Request) -> web.Response:
        return web.json_response(discovery.version_info(version))

    async def alive(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def allowed(_request: web.Request) -> web.Response:
        # Whoever has the token may do everything.
        return web.json_response(discovery.access_review(), status=201)

    async def whoami(request: web.Request) -> web.Response:
        review = discovery.user_review(request.match_info["version"], is_anonymous=is_anonymous)
        return web.json_response(review, status=201)

    router.add_post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", allowed)
    # kubectl 1.27 asks in the versions of before.
    router.add_post(
        "/apis/authentication.k8s.io/{version:v1|v1beta1|v1alpha1}/selfsubjectreviews", whoami
    )
    router.add_get("/", root)
    router.add_get("/api", core)
    router.add_get("/api/v1", resources)
    router.add_get("/apis", all_groups)
    router.add_get("/apis/{group}", group)
    router.add_get("/apis/{group}/{version}", resources)
    router.add_get("/openapi/v2", schema_v2)
    router.add_get("/openapi/v3", schemas)
    router.add_get("/openapi/v3/api/v1", schema)
    router.add_get("/openapi/v3/apis/{group}/{version}", schema)
    router.add_get("/version", about)
    for path in ("/healthz", "/livez", "/readyz"):
        router.add_get(path, alive)


def _group_version(request: web.Request) -> tuple[str, str]:
    group, version = request.match_info.get("group", ""), request.match_info.get("version", "v1")
    if group and version not in groups().get(group, ()):
        raise unknown_path(request.path)
    return group, version


_REASONS = {
    400: "BadRequest",
    404: "NotFound",
    405: "MethodNotAllowed",
    413: "RequestEntityTooLarge",
    415: "UnsupportedMediaType",
}


@web.middleware
async def _as_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever goes wrong into a Status."""
    try:
        return await handler(request)
    except StatusError as failure:
        headers = {"Retry-After": "1"} if failure.code == 503 else None
        return web.json_response(failure.to_dict(), status=failure.code, headers=headers)
    except web.HTTPException as error:
        reason = _REASONS.get(error.status, "Unknown")
        text = f"the server could not find the requested resource ({request.path})"
        message = text if error.status == 404 else error.reason
        return web.json_response(status_object(error.status, reason, message), status=error.status)
    except Exception:
        # A bug must not look like a lost connection; nothing was stored, as storing is the last
        # step.
        _log.exception("a request failed", method=request.method, path=request.path)
        body = status_object(
            500, "InternalError", "an internal error occurred; see the control plane's log"
        )
        return web.json_response(body, status=500)
