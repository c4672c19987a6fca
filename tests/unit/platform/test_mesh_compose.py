"""What compose/mesh.yaml promises: versions agree with the package's, and Consul and the APIs stay
out of reach.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockermesh.client.images.base import OWN_BASE
from dockermesh.inject.images import TAGS, Images, reference, variable

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def mesh() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose/mesh.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def default_of(interpolation: str) -> str:
    """`x/y` of `${NAME:-${OTHER:-x}/y}`."""
    inner = re.sub(r"\$\{\w+:-([^{}$]*)\}", r"\1", interpolation)
    return inner if inner == interpolation else default_of(inner)


@pytest.mark.parametrize("name", list(TAGS))
def test_images_are_called_as_the_command_line_calls_them(
    mesh: dict[str, Any], name: str
) -> None:
    image = mesh["services"][name]["image"]
    assert default_of(image) == reference(name, {})
    assert f"${{{variable(name)}:-" in image and "${DOCKERMESH_IMAGES_FROM:-" in image


@pytest.mark.parametrize("name", list(TAGS))
def test_no_registry_is_asked_for_names_that_nobody_owns(
    mesh: dict[str, Any], name: str
) -> None:
    assert default_of(mesh["services"][name]["pull_policy"]) == "never"


def test_base_script_keeps_the_name_that_the_command_line_looks_for() -> None:
    assert OWN_BASE in (ROOT / "compose/images/debian-base").read_text()


def test_envoy_is_built_in_the_version_of_its_tag() -> None:
    dockerfile = (ROOT / "compose/images/proxy/Dockerfile").read_text()
    assert f"ARG ENVOY_VERSION={Images().proxy.rpartition(':')[2]}\n" in dockerfile


def test_consul_is_on_the_control_network_only(mesh: dict[str, Any]) -> None:
    assert mesh["services"]["consul"]["networks"] == ["control"]


@pytest.mark.parametrize("service", ["consul", "control-plane"])
def test_only_dns_is_published_beyond_loopback(
    mesh: dict[str, Any], service: str
) -> None:
    beyond = [
        port
        for port in mesh["services"][service]["ports"]
        if not port.startswith("127.0.0.1:")
    ]
    assert beyond == (
        ["${DOCKER_GATEWAY:-172.28.0.1:}53:8600/udp"] if service == "consul" else []
    )


@pytest.mark.parametrize("service", ["consul", "control-plane"])
def test_nothing_runs_with_more_rights_than_it_needs(
    mesh: dict[str, Any], service: str
) -> None:
    settings = mesh["services"][service]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert settings["restart"] == "always"
    assert not settings.get("privileged") and not settings.get("cap_add")
