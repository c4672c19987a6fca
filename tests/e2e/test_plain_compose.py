"""The mesh with plain `docker compose`: mesh.yaml, and the app's own file with the generated
difference over it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from mesh_rig import (
    CONTROL_PLANE,
    MESH_FILE,
    Mesh,
    containers,
    docker,
    get,
    inspect,
    leftovers,
    run,
)
from patience import until

pytestmark = pytest.mark.docker

PORT = 30085


def test_overlay_and_mesh_file_give_the_same_mesh(
    mesh: Mesh, small: Callable[..., str]
) -> None:
    before = containers("dockermesh")
    run("docker", "compose", "-f", MESH_FILE, "up", "-d")
    assert containers("dockermesh") == before, (
        "plain Compose and `dockermesh up` start different meshes"
    )

    file = small("plain", published=9085)
    overlay = str(Path(file).with_name("sidecars.yaml"))
    done = mesh.command(
        "inject",
        "-f",
        file,
        "--overlay",
        "--gateway-port",
        f"9085:{PORT}",
        "-o",
        overlay,
    )
    assert done.returncode == 0, done.stderr
    assert "image" not in yaml.safe_load(
        Path(overlay).read_text().replace("!override", "").replace("!reset", "")
    )["services"].get("shop", {}), "an overlay holds only the difference"
    compose = ["docker", "compose", "-f", file, "-f", overlay]
    try:
        run(*compose, "up", "-d")
        mesh.until_synced(30, ["plain/shop-1", "plain/gateway-1"])
        until(
            lambda: get(f"http://127.0.0.1:{PORT}/details/0")[0] == 200,
            "the app answers at the gateway",
            10,
        )
        assert inspect("plain-shop-1")["HostConfig"]["NetworkMode"].startswith(
            "container:"
        )
        run(*compose, "up", "-d", "--force-recreate", "shop")
        mesh.until_synced(30, ["plain/shop-1", "plain/gateway-1"])
        until(
            lambda: get(f"http://127.0.0.1:{PORT}/details/0")[0] == 200,
            "the new app answers",
            10,
        )
    finally:
        run(*compose, "down", "-v", "-t", "1")
    assert leftovers("plain") == []
    until(
        lambda: mesh.workloads("plain") == [], "the mesh forgets removed workloads", 10
    )
    assert docker("inspect", "-f", "{{.State.Running}}", CONTROL_PLANE) == "true"
