"""`replicas: 3`: three pods, three endpoints, and load on all three."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from mesh_rig import Mesh, consul, docker, get, taken_in
from patience import until

pytestmark = pytest.mark.docker

PORT = 30083
URL = f"http://127.0.0.1:{PORT}/details/0"


def test_three_replicas_share_the_load(mesh: Mesh, small: Callable[..., str]) -> None:
    file = small("triple", replicas=3, published=9083)
    try:
        mesh.up(file, "--gateway-port", f"9083:{PORT}")
        names = {
            w["name"]
            for w in until(lambda: mesh.workloads("triple"), "they are listed")
        }
        assert names == {f"triple/shop-{n}" for n in (1, 2, 3)} | {"triple/gateway-1"}
        spaces = {
            docker("exec", f"triple-shop-{n}-1", "readlink", "/proc/self/ns/net")
            for n in (1, 2, 3)
        }
        assert len(spaces) == 3, "replicas must not share a network namespace"

        entries = consul("/v1/health/service/triple-shop?passing")
        assert len({e["Service"]["Address"] for e in entries}) == 3

        pods = [f"triple-shop-{n}-pod-1" for n in (1, 2, 3)]
        before = [taken_in(pod) for pod in pods]
        for _ in range(60):
            code, body = get(URL)
            assert code == 200, body
            assert json.loads(body)["id"] == 0
        shares = [
            after - b for after, b in zip(map(taken_in, pods), before, strict=True)
        ]
        assert sum(shares) == 60
        assert min(shares) >= 5, f"one replica is hardly used: {shares}"

        # One goes: its endpoint goes from the catalog, and no request fails for it.
        docker("stop", "-t", "2", "triple-shop-2-1")
        until(
            lambda: len(consul("/v1/health/service/triple-shop?passing")) == 2,
            "two endpoints are left",
            10,
        )
        assert {get(URL)[0] for _ in range(20)} == {200}
    finally:
        mesh.down("triple")
