"""What a mesh runs for which registry, against the files that say the same."""

from __future__ import annotations

from pathlib import Path

import yaml

from dockermesh.client.compose.bring_up import DEPENDENCIES, mesh_arguments
from dockermesh.controlplane.backends import BACKENDS
from dockermesh.inject.images import TAGS
from dockermesh.model.registries import SERVERS, foreign_servers

MESH = yaml.safe_load(
    (Path(__file__).parents[3] / "compose" / "mesh.yaml").read_text()
)["services"]


def test_every_registry_that_can_be_named_has_a_backend() -> None:
    assert set(SERVERS) == set(BACKENDS)


def test_servers_are_services_of_the_mesh_and_images() -> None:
    servers = frozenset().union(*SERVERS.values())
    assert servers <= set(MESH)
    assert servers <= set(TAGS)


def test_what_the_control_plane_depends_on_is_what_its_file_says() -> None:
    assert set(MESH["control-plane"]["depends_on"]) == DEPENDENCIES


def test_a_registry_starts_its_own_servers_and_no_other() -> None:
    assert mesh_arguments("consul") == ["consul", "control-plane"]
    assert mesh_arguments("docker") == ["--no-deps", "control-plane"]
    assert foreign_servers("consul") == frozenset()
    assert foreign_servers("docker") == {"consul"}
