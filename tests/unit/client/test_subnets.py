"""Subnets of the mesh: a new one gives way, one that is there stays, and a user's choice holds."""

from __future__ import annotations

import pytest

from dockermesh.client.compose.mesh_files import mesh_file
from dockermesh.client.compose.subnets import (
    choose_subnets,
    declared_subnets,
    overlaps,
)
from dockermesh.errors import InputError
from dockermesh.model.contract import CONTROL_SUBNET, MESH_SUBNET

USUAL = {"DOCKERMESH_SUBNET": MESH_SUBNET, "DOCKERMESH_CONTROL_SUBNET": CONTROL_SUBNET}


@pytest.mark.parametrize(
    ("subnet", "env", "wanted"),
    [
        ("172.28.5.0/24", USUAL, "dockermesh "),
        ("172.16.0.0/12", USUAL, "dockermesh "),
        ("10.0.0.0/8", USUAL, "dockermesh-control "),
        ("172.29.0.0/16", USUAL, ""),
        ("fd00::/64", USUAL, ""),
        ("172.28.0.0/16", {"DOCKERMESH_SUBNET": "172.29.0.0/16"}, ""),
        ("172.29.0.0/16", {"DOCKERMESH_SUBNET": "172.29.0.0/16"}, "dockermesh "),
        ("172.28.0.0/16", {"DOCKERMESH_SUBNET": "nonsense"}, ""),
        ("172.28.0.0/16", {}, ""),
    ],
)
def test_a_network_in_the_way_of_what_the_user_said_is_named(
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
    for name, subnet in USUAL.items():
        assert f"{name}:-{subnet}" in text
    chosen = choose_subnets({}, {}, {}, "dockermesh")
    assert chosen.settings == USUAL and chosen.notes == ()
    assert chosen.gateway == "172.28.0.1" and f"{chosen.gateway}:}}53" in text


@pytest.mark.parametrize(
    ("existing", "declared"),
    [
        ({"theirs": ["172.28.5.0/24"]}, {}),
        ({}, {"shop_db": ["172.16.0.0/12", "fd00::/64"]}),
        ({"a": ["172.28.0.0/16"], "b": ["172.30.1.0/24"]}, {"shop_db": ["10.0.0.0/8"]}),
    ],
)
def test_a_new_mesh_takes_what_nobody_has_or_wants(
    existing: dict[str, list[str]], declared: dict[str, list[str]]
) -> None:
    chosen = choose_subnets(existing, declared, {}, "dockermesh")
    assert chosen.notes and chosen.settings["DOCKERMESH_SUBNET"] != MESH_SUBNET
    both = {**existing, **declared}
    for variable, subnet in chosen.settings.items():
        if subnet != USUAL[variable] or variable == "DOCKERMESH_SUBNET":
            assert not list(overlaps(both, {variable: subnet}))
    assert chosen.gateway == chosen.settings["DOCKERMESH_SUBNET"].replace(".0/16", ".1")


def test_a_mesh_keeps_the_subnet_that_it_has() -> None:
    existing = {"dockermesh": ["172.30.0.0/16"], "theirs": ["10.0.0.0/8"]}
    chosen = choose_subnets(existing, {}, {}, "dockermesh")
    assert chosen.settings["DOCKERMESH_SUBNET"] == "172.30.0.0/16"
    assert chosen.gateway == "172.30.0.1"


def test_what_the_user_said_is_not_changed() -> None:
    env = {"DOCKERMESH_SUBNET": "172.29.0.0/16"}
    chosen = choose_subnets({"theirs": ["172.29.0.0/16"]}, {}, env, "dockermesh")
    assert chosen.settings["DOCKERMESH_SUBNET"] == "172.29.0.0/16"


def test_a_network_of_the_app_that_overlaps_with_a_mesh_that_is_there_is_refused() -> (
    None
):
    existing, declared = (
        {"dockermesh": ["172.28.0.0/16"]},
        {"shop_db": ["172.28.9.0/24"]},
    )
    with pytest.raises(InputError, match=r"172\.28\.9\.0/24") as raised:
        choose_subnets(existing, declared, {}, "dockermesh")
    assert raised.value.where == "network shop_db"
    assert "DOCKERMESH_SUBNET" in raised.value.fix
    # It is there already, and the engine has let both be.
    choose_subnets(existing | declared, declared, {}, "dockermesh")


def test_networks_of_others_are_not_the_projects_to_declare() -> None:
    config = {"config": [{"subnet": "172.28.0.0/16"}, {"gateway": "172.28.0.1"}]}
    networks = {
        "own": {"name": "shop_own", "ipam": config},
        "theirs": {"name": "theirs", "external": True, "ipam": config},
        "plain": None,
    }
    found = declared_subnets({"networks": networks})
    assert found == {"shop_own": ["172.28.0.0/16"]}
