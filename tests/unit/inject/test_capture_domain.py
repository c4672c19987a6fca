"""Pods of a mesh whose Consul has another domain send its names to their proxy, whatever is asked."""

from __future__ import annotations

from typing import Any

from dockermesh.inject.capture import pod_capture
from dockermesh.inject.options import InjectOptions
from dockermesh.inject.project import inject_project

PROJECT = {"name": "shop", "services": {"web": {"image": "web", "expose": ["80"]}}}
CONSUL, ACME = "06636f6e73756c00", "0461636d6500"


def rules_of(options: InjectOptions) -> list[str]:
    made: dict[str, Any] = inject_project(PROJECT, options).project
    return [config["content"] for config in made.get("configs", {}).values()]


def test_the_rules_name_the_domains_last_label() -> None:
    assert CONSUL in pod_capture() and ACME not in pod_capture()
    other = pod_capture(domain="mesh.acme")
    assert ACME in other and CONSUL not in other


def test_a_pod_gets_rules_of_its_own_where_the_domain_is_another() -> None:
    assert rules_of(InjectOptions()) == []
    [rules] = rules_of(InjectOptions(consul_domain="acme"))
    assert ACME in rules
