"""Pods of a mesh whose Consul has another domain know it: their name servers ask for its names."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.inject.options import InjectOptions
from dockermesh.inject.project import inject_project
from dockermesh.model.contract import ENV_DNS_DOMAIN

PROJECT = {"name": "shop", "services": {"web": {"image": "web", "expose": ["80"]}}}


@pytest.mark.parametrize(("domain", "told"), [("consul", None), ("acme", "acme")])
def test_a_pod_is_told_the_domain_where_it_is_another(
    domain: str, told: str | None
) -> None:
    made: dict[str, Any] = inject_project(
        PROJECT, InjectOptions(consul_domain=domain)
    ).project
    pod = made["services"]["web-1-pod"]
    assert pod["environment"].get(ENV_DNS_DOMAIN) == told
    assert "configs" not in made, "the rules are the same for every domain"
