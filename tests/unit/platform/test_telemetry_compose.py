"""What compose/telemetry.yaml promises: images that the command line knows, and nobody but this
host reaches them by their published ports.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from dockermesh.client.compose.mesh_ports import TELEMETRY_PORTS
from dockermesh.client.images.telemetry import MAKERS
from dockermesh.inject.images import variable
from dockermesh.model.contract import MESH_NETWORK, TELEMETRY_PROJECT

FOLDER = Path(__file__).parents[3] / "compose"
FILE: dict[str, Any] = yaml.safe_load((FOLDER / "telemetry.yaml").read_text())
SERVICES: dict[str, Any] = FILE["services"]


def test_its_services_are_those_that_the_command_line_starts() -> None:
    assert FILE["name"] == TELEMETRY_PROJECT
    assert set(SERVICES) == set(MAKERS)
    ports = {port.container: port for port in TELEMETRY_PORTS}
    assert {s["container_name"] for s in SERVICES.values()} == set(ports)


@pytest.mark.parametrize("name", list(MAKERS))
def test_images_are_pinned_and_can_be_replaced(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == f"${{{variable(name)}:-{MAKERS[name]}}}"
    assert MAKERS[name].rpartition(":")[2] not in {"", "latest"}


@pytest.mark.parametrize("name", list(MAKERS))
def test_only_this_host_reaches_the_port(name: str) -> None:
    service = SERVICES[name]
    port = next(p for p in TELEMETRY_PORTS if p.container == service["container_name"])
    inside = port.inside.partition("/")[0]
    assert service["ports"] == [
        f"127.0.0.1:${{{port.variable}:-{port.default}}}:{inside}"
    ]


@pytest.mark.parametrize("name", list(MAKERS))
def test_nothing_runs_with_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["labels"] == {"SERVICE_IGNORE": "true"}


def test_prometheus_does_not_answer_on_the_mesh_network() -> None:
    own = FILE["networks"]["default"]["name"]
    (listens,) = [
        option
        for option in SERVICES["prometheus"]["command"]
        if option.startswith("--web.listen-address=")
    ]
    host = SERVICES["prometheus"]["container_name"]
    assert listens.partition("=")[2] == f"{host}.{own}:9090"
    # Docker publishes ports on the first of a container's networks by name.
    assert own < MESH_NETWORK and own.startswith("0")
    assert SERVICES["grafana"]["networks"] == ["default"]


def test_what_it_mounts_of_this_folder_is_there_and_in_the_package() -> None:
    binds = [
        volume.partition(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert len(binds) == 3
    for path in binds:
        assert path.startswith("./telemetry/") and (FOLDER / path).exists()
    packaged = (FOLDER.parent / "pyproject.toml").read_text()
    assert '"compose/telemetry" = "dockermesh/_compose/telemetry"' in packaged


def test_grafana_has_no_administrator_and_asks_nobody() -> None:
    said = SERVICES["grafana"]["environment"]
    assert said["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert said["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert said["GF_ANALYTICS_REPORTING_ENABLED"] == "false"
