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
from dockermesh.kubeapi.api import Api
from dockermesh.kubeapi.cache import ObjectCache
from dockermesh.kubeapi.conditions import MeshProgress
from dockermesh.kubeapi.discovery_api import DiscoveryApi
from dockermesh.kubeapi.history import History
from dockermesh.kubeapi.rollback import RollbackApi
from dockermesh.kubeapi.status import StatusError
from dockermesh.kubeapi.vault import Vault
from dockermesh.kubeapi.verdicts import Verdicts
from dockermesh.kubeapi.view import View
from dockermesh.kubeapi.writer import Writer
from dockermesh.registry import ConfigStore

MAX_BODY_BYTES = 4 << 20
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
    verdicts: Verdicts | None = None,
) -> web.Application:
    """The HTTP application of port 8080. Without a token anybody may use it, except web pages.

    `open_paths` check for themselves who asks. Without a vault, Secrets are sealed with a key that
    is forgotten when the process ends; where anybody may ask, they are not served at all.
    """
    if token is None:
        guard, safe = refuse_browsers(), None
    else:
        guard = require_token(TokenGate(token), open_paths=open_paths)
        safe = vault or _forgetful_vault()

    app = web.Application(
        middlewares=[(verdicts or Verdicts()).middleware, _as_status, guard],
        client_max_size=MAX_BODY_BYTES,
    )
    DiscoveryApi(version, is_anonymous=token is None).add_to(app.router)
    writer = Writer(store, cache, history)
    _add_objects(app.router, Api(writer, cache, View(progress, safe), safe, why_unread))
    if history is not None:
        RollbackApi(history, writer, cache).add_to(app.router)

    async def end_watches(_app: web.Application) -> None:
        cache.close()

    app.on_shutdown.append(end_watches)
    return app


def _forgetful_vault() -> Vault:
    return Vault(Seal(secrets.token_bytes(32), is_passphrase=False, where="memory"))


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
        return web.json_response(
            failure.to_dict(), status=failure.code, headers=headers
        )
    except web.HTTPException as error:
        reason = _REASONS.get(error.status, "Unknown")
        text = f"the server could not find the requested resource ({request.path})"
        message = text if error.status == 404 else error.reason
        return web.json_response(
            status_object(error.status, reason, message), status=error.status
        )
    except (web.RequestPayloadError, ConnectionError):
        # The client's affair; if it is still there, it may know.
        body = status_object(400, "BadRequest", "the body cannot be read")
        return web.json_response(body, status=400)
    except Exception:
        # A bug must not look like a lost connection; nothing was stored, as storing is the last
        # step.
        _log.exception("a request failed", method=request.method, path=request.path)
        body = status_object(
            500,
            "InternalError",
            "an internal error occurred; see the control plane's log",
        )
        return web.json_response(body, status=500)
