"""What compose/mesh.yaml promises: versions agree with the package's, and Consul and the APIs stay
out of reach.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dockermesh import __version__
from dockermesh.inject.images import Images

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def mesh() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose/mesh.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


def default_of(interpolation: str) -> str:
    """`x` of `${NAME:-x}`."""
    return interpolation.partition(":-")[2].removesuffix("}")


def test_image_tags_are_those_the_generator_writes(mesh: dict[str, Any]) -> None:
    services = mesh["services"]
    assert (
        default_of(services["control-plane"]["image"]) == f"dockermesh/control-plane:{__version__}"
    )
    assert default_of(services["pod"]["image"]) == Images().pod
    assert default_of(services["proxy"]["image"]) == Images().proxy


def test_envoy_is_built_in_the_version_of_its_tag() -> None:
    dockerfile = (ROOT / "compose/images/proxy/Dockerfile").read_text()
    assert f"ARG ENVOY_VERSION={Images().proxy.rpartition(':')[2]}\n" in dockerfile


def test_consul_is_on_the_control_network_only(mesh: dict[str, Any]) -> None:
    assert mesh["services"]["consul"]["networks"] == ["control"]


@pytest.mark.parametrize("service", ["consul", "control-plane"])
def test_only_dns_is_published_beyond_loopback(mesh: dict[str, Any], service: str) -> None:
    beyond = [
        port for port in mesh["services"][service]["ports"] if not port.startswith("127.0.0.1:")
    ]
    assert beyond == (["${DOCKER_GATEWAY:-172.28.0.1:}53:8600/udp"] if service == "consul" else [])


@pytest.mark.parametrize("service", ["consul", "control-plane"])
def test_nothing_runs_with_more_rights_than_it_needs(mesh: dict[str, Any], service: str) -> None:
    settings = mesh["services"][service]
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert settings["read_only"] is True
    assert settings["restart"] == "unless-stopped"
    assert not settings.get("privileged") and not settings.get("cap_add")
