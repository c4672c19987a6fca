"""Other networks that take the mesh's subnets are named before the engine refuses them."""

from __future__ import annotations

import pytest

from dockermesh.client.compose.mesh_files import mesh_file
from dockermesh.client.compose.subnets import overlaps


@pytest.mark.parametrize(
    ("subnet", "env", "wanted"),
    [
        ("172.28.5.0/24", {}, "dockermesh "),
        ("172.16.0.0/12", {}, "dockermesh "),
        ("10.0.0.0/8", {}, "dockermesh-control "),
        ("172.29.0.0/16", {}, ""),
        ("fd00::/64", {}, ""),
        ("172.28.0.0/16", {"DOCKERMESH_SUBNET": "172.29.0.0/16"}, ""),
        ("172.29.0.0/16", {"DOCKERMESH_SUBNET": "172.29.0.0/16"}, "dockermesh "),
        ("172.28.0.0/16", {"DOCKERMESH_SUBNET": "nonsense"}, ""),
    ],
)
def test_a_network_in_the_way_is_named(
    subnet: str, env: dict[str, str], wanted: str
) -> None:
    found = list(overlaps({"theirs": [subnet], "empty": []}, env))
    assert [
        wanted in f"{detail} " and "network rm theirs" in fix for detail, fix in found
    ] == [True] * bool(wanted)
    # The mesh's own networks are in nobody's way.
    assert not list(
        overlaps({"theirs": [subnet], "dockermesh": [], "dockermesh-control": []}, env)
    )


def test_the_defaults_are_those_of_the_compose_file() -> None:
    text = mesh_file().read_text()
    for name, subnet in (
        ("DOCKERMESH_SUBNET", "172.28.0.0/16"),
        ("DOCKERMESH_CONTROL_SUBNET", "10.254.28.0/28"),
    ):
        assert f"{name}:-{subnet}" in text
        assert list(overlaps({"theirs": [subnet]}, {}))
