"""Writes are counted by kind and verdict, and by names that there are."""

from __future__ import annotations

from collections import Counter

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from dockermesh.kubeapi.verdicts import Verdicts

PATH = "/apis/{group}/{version}/namespaces/{namespace}/{plural}"
ROUTES = "/apis/networking.istio.io/v1/namespaces/a/virtualservices"
KIND = ("networking.istio.io", "v1", "virtualservices")


@pytest.mark.parametrize(
    ("method", "path", "status", "passed", "failed"),
    [
        ("POST", ROUTES, 201, {KIND: 1}, {}),
        ("PUT", ROUTES, 200, {KIND: 1}, {}),
        ("POST", ROUTES, 422, {}, {(KIND, "invalid_resource"): 1}),
        ("POST", ROUTES, 400, {}, {(KIND, "yaml_decode_error"): 1}),
        ("POST", ROUTES, 409, {}, {}),
        ("GET", ROUTES, 200, {}, {}),
        ("POST", f"{ROUTES}?dryRun=All", 422, {}, {}),
        ("POST", ROUTES.replace("virtual", "evil"), 400, {}, {}),
    ],
)
async def test_verdicts(
    method: str,
    path: str,
    status: int,
    passed: dict[object, int],
    failed: dict[object, int],
) -> None:
    verdicts = Verdicts()
    app = web.Application(middlewares=[verdicts.middleware])

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    app.router.add_route("*", PATH, answer)
    async with TestClient(TestServer(app)) as client:
        assert (await client.request(method, path)).status == status
    assert verdicts.passed == Counter(passed)
    assert verdicts.failed == Counter(failed)
