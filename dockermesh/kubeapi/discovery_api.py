"""Discovery over HTTP: what a client asks before it asks for an object.

Invariant: everything here is the same for every client and every moment, but for who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dockermesh.kubeapi import discovery, openapi
from dockermesh.kubeapi.served import groups
from dockermesh.kubeapi.status import unknown_path

# kubectl accepts an empty document under this type, and fails on any other answer.
_OPENAPI_V2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_REVIEWS = {
    "access": "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
    # kubectl 1.27 asks in the versions of before.
    "user": "/apis/authentication.k8s.io/{version:v1|v1beta1|v1alpha1}/selfsubjectreviews",
}


@dataclass(frozen=True, slots=True)
class DiscoveryApi:
    """Handlers of the paths beside objects; `version` is dockermesh's, and nobody has a name where
    no token is asked for (`is_anonymous`).
    """

    version: str
    is_anonymous: bool

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Serve."""
        handlers = {
            "/": self.paths,
            "/api": self.core,
            "/api/v1": self.resources,
            "/apis": self.all_groups,
            "/apis/{group}": self.group,
            "/apis/{group}/{version}": self.resources,
            "/openapi/v2": self.schema_v2,
            "/openapi/v3": self.schemas,
            "/openapi/v3/api/v1": self.schema,
            "/openapi/v3/apis/{group}/{version}": self.schema,
            "/version": self.about,
            **dict.fromkeys(("/healthz", "/livez", "/readyz"), self.alive),
        }
        for path, handler in handlers.items():
            router.add_get(path, handler)
        router.add_post(_REVIEWS["access"], self.allowed)
        router.add_post(_REVIEWS["user"], self.whoami)

    async def paths(self, _request: web.Request) -> web.Response:
        """What there is, as links."""
        found = [f"/apis/{g}/{v}" for g, versions in groups().items() for v in versions]
        listed = ["/api", "/api/v1", "/apis", *found, "/openapi/v3", "/version"]
        return web.json_response({"paths": listed})

    async def core(self, request: web.Request) -> web.Response:
        """The versions of the group without name."""
        return web.json_response(discovery.core_versions(request.host))

    async def all_groups(self, _request: web.Request) -> web.Response:
        """All other groups."""
        return web.json_response(discovery.group_list())

    async def group(self, request: web.Request) -> web.Response:
        """One group."""
        if request.match_info["group"] not in groups():
            raise unknown_path(request.path)
        return web.json_response(discovery.group_object(request.match_info["group"]))

    async def resources(self, request: web.Request) -> web.Response:
        """The kinds of a group in a version."""
        return web.json_response(discovery.resource_list(*_group_version(request)))

    async def schema(self, request: web.Request) -> web.Response:
        """OpenAPI of a group in a version."""
        return web.json_response(openapi.document(*_group_version(request)))

    async def schemas(self, _request: web.Request) -> web.Response:
        """Where the schemas are."""
        return web.json_response(openapi.index())

    async def schema_v2(self, _request: web.Request) -> web.Response:
        """The older form, which is asked for first."""
        return web.Response(body=b"", headers={"Content-Type": _OPENAPI_V2})

    async def about(self, _request: web.Request) -> web.Response:
        """Which Kubernetes this is like."""
        return web.json_response(discovery.version_info(self.version))

    async def alive(self, _request: web.Request) -> web.Response:
        """That the process answers."""
        return web.Response(text="ok")

    async def allowed(self, _request: web.Request) -> web.Response:
        """`kubectl auth can-i`."""
        # Whoever has the token may do everything.
        return web.json_response(discovery.access_review(), status=201)

    async def whoami(self, request: web.Request) -> web.Response:
        """`kubectl auth whoami`."""
        version = request.match_info["version"]
        review: dict[str, Any] = discovery.user_review(
            version, is_anonymous=self.is_anonymous
        )
        return web.json_response(review, status=201)


def _group_version(request: web.Request) -> tuple[str, str]:
    group, version = (
        request.match_info.get("group", ""),
        request.match_info.get("version", "v1"),
    )
    if group and version not in groups().get(group, ()):
        raise unknown_path(request.path)
    return group, version
