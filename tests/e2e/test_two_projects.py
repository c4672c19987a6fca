"""Two projects that both have a `shop`: each calls its own, and no request fails when the other
comes or goes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from load import steady_load
from mesh_rig import Mesh, consul, docker, get, taken_in
from patience import until

pytestmark = pytest.mark.docker

APP = """
name: {project}
services:
  shop:
    image: bookinfo-details-v1
    environment: {{SERVICE_PROTOCOL: http}}
    ports: ["{port}:9080"]
"""
PORTS = {"first": 9087, "second": 9088}
CALL = "import urllib.request as u; print(u.urlopen('http://{}:9080/details/0', timeout=60).status)"


def up(mesh: Mesh, folder: Path, project: str) -> None:
    file = folder / f"{project}.yaml"
    file.write_text(APP.format(project=project, port=PORTS[project]))
    mesh.up(file)


def test_a_project_calls_its_own_and_comes_without_a_failed_request_of_another(
    mesh: Mesh, tmp_path: Path
) -> None:
    try:
        up(mesh, tmp_path, "first")
        with steady_load(f"http://127.0.0.1:{PORTS['first']}/details/0") as seen:
            up(mesh, tmp_path, "second")
            assert len(consul("/v1/health/service/shop?passing")) == 2, (
                "to Consul they are one"
            )
            pods = {project: f"{project}-shop-1-pod-1" for project in PORTS}
            mesh.until_synced(30)
            before = {project: taken_in(pod) for project, pod in pods.items()}
            for _ in range(20):
                assert get(f"http://127.0.0.1:{PORTS['second']}/details/0")[0] == 200
                assert (
                    docker(
                        "exec", "second-shop-1", "python3", "-c", CALL.format("shop")
                    ).strip()
                    == "200"
                )
            assert taken_in(pods["second"]) - before["second"] == 40
            asked = seen.total()
            mesh.down("second")
            until(lambda: seen.total() > asked + 20, "the first is asked on")
        assert set(seen) == {200}, "the other project was noticed"
        assert (
            docker("exec", "first-shop-1", "python3", "-c", CALL.format("shop")).strip()
            == "200"
        )
    finally:
        for project in PORTS:
            mesh.down(project)
