"""The files of the sample agree with each other: Compose app, Dockerfiles, and the Istio resources
of the tasks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

SAMPLE = Path(__file__).resolve().parents[3] / "samples" / "bookinfo"
COMPOSE = yaml.safe_load((SAMPLE / "compose.yaml").read_text())
RESOURCES = sorted((SAMPLE / "networking").glob("*.yaml"))
TOOLS = yaml.safe_load((SAMPLE / "tools.yaml").read_text())
VERSIONS = {
    "details": ["v1"],
    "productpage": ["v1"],
    "ratings": ["v1"],
    "reviews": ["v1", "v2", "v3"],
}


OTHERS = {
    "httpbin": ["v1"],
    "tcp-echo": ["v1", "v2"],
    "books.example": ["v1"],
    "istio-egressgateway.istio-system.svc.cluster.local": ["books"],
}
"""What `tools.yaml` adds."""


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def destinations(value: Any) -> list[dict[str, Any]]:
    """Every `destination` and `mirror` below a value."""
    if isinstance(value, list):
        return [found for item in value for found in destinations(item)]
    if not isinstance(value, dict):
        return []
    own = [item for key, item in value.items() if key in ("destination", "mirror")]
    return own + [found for item in value.values() for found in destinations(item)]


def test_the_app_has_no_trace_of_the_mesh() -> None:
    for path in [SAMPLE / "compose.yaml", *SAMPLE.glob("services/**/Dockerfile")]:
        assert "dockermesh" not in path.read_text(), path


def test_the_service_accounts_are_those_of_istios_sample() -> None:
    accounts = {
        definition["environment"]["SERVICE_ACCOUNT"]
        for definition in COMPOSE["services"].values()
    }
    assert accounts == {f"bookinfo-{service}" for service in VERSIONS}


@pytest.mark.parametrize("name", sorted(COMPOSE["services"]))
def test_a_service_is_registered_and_reachable_under_its_name(name: str) -> None:
    service, version = name.split("-")
    definition = COMPOSE["services"][name]
    environment = definition["environment"]
    assert version in VERSIONS[service]
    assert environment["SERVICE_NAME"] == service
    assert environment["SERVICE_TAGS"] == f"version|{version}"
    assert environment["SERVICE_PROTOCOL"] == "http"
    assert environment["SERVICE_VERSION"] == version
    if service != "productpage":
        assert definition["networks"]["default"]["aliases"] == [service]


def test_all_versions_are_there() -> None:
    assert set(COMPOSE["services"]) == {
        f"{name}-{version}" for name, all_ in VERSIONS.items() for version in all_
    }
    assert COMPOSE["services"]["productpage-v1"]["ports"] == ["9081:9080"]


@pytest.mark.parametrize("path", RESOURCES, ids=lambda path: path.stem)
def test_a_task_names_services_and_versions_that_exist(path: Path) -> None:
    found = documents(path)
    for document in found:
        assert document["apiVersion"] == "networking.istio.io/v1"
        for destination in destinations(document):
            assert (
                destination.get("subset", "v1")
                in (VERSIONS | OTHERS)[destination["host"]]
            )
        for subset in document["spec"].get("subsets", []):
            assert (
                subset.get("labels", {}).get("version", subset["name"])
                in (VERSIONS | OTHERS)[document["spec"]["host"]]
            )
    assert found


def test_destination_rules_name_all_versions() -> None:
    rules = documents(SAMPLE / "networking" / "destination-rule-all.yaml")
    assert {
        rule["spec"]["host"]: [s["name"] for s in rule["spec"]["subsets"]]
        for rule in rules
    } == VERSIONS


def test_the_tools_are_where_the_tasks_look_for_them() -> None:
    environments = {
        name: definition["environment"]
        for name, definition in TOOLS["services"].items()
    }
    assert {e["SERVICE_NAME"] for e in environments.values()} >= {"httpbin", "tcp-echo"}
    outside = [name for name, e in environments.items() if e.get("SERVICE_IGNORE")]
    aliases = [
        a
        for name in outside
        for a in TOOLS["services"][name]["networks"]["default"]["aliases"]
    ]
    assert aliases == ["books.example", "books.far.example"]
    for name in outside:
        assert TOOLS["services"][name]["labels"] == {"sidecar.istio.io/inject": "false"}


def test_every_task_is_in_the_readme() -> None:
    readme = (SAMPLE / "README.md").read_text()
    for path in RESOURCES:
        assert path.name in readme, path.name
