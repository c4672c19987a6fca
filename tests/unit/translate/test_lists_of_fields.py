"""Lists of field names in translation are complete: whoever adds a field to the API is told here
where it has to be thought of.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from dockermesh.config.api.common import StringMatch
from dockermesh.config.api.destination_rule import PortTrafficPolicy, TrafficPolicy
from dockermesh.config.api.mesh_config import MeshConfig
from dockermesh.config.api.virtual_service import HTTPMatchRequest, HTTPRoute
from dockermesh.config.kinds import KINDS, MESH_CONFIG
from dockermesh.config.rules.shadowing import covers
from dockermesh.inject.capture.config import CaptureConfig
from dockermesh.inject.capture.parse import _FIELDS as CAPTURED
from dockermesh.translate.mesh import settings
from dockermesh.translate.mesh import traffic_policy as policy
from dockermesh.translate.mesh.delegates import _INHERITED, merge_matches

ROOT = Path(__file__).parents[3] / "dockermesh"
A_MATCH: dict[str, Any] = {
    "name": "a",
    "uri": StringMatch(prefix="/a"),
    "scheme": StringMatch(exact="http"),
    "method": StringMatch(exact="GET"),
    "authority": StringMatch(exact="a"),
    "headers": {"a": StringMatch(exact="a")},
    "port": 80,
    "source_labels": {"a": "b"},
    "gateways": ("a",),
    "query_params": {"a": StringMatch(exact="a")},
    "ignore_uri_case": True,
    "without_headers": {"a": StringMatch(exact="a")},
    "source_namespace": "a",
    "stat_prefix": "a",
}
"""Another than the default value for every condition."""


def names_of(cls: Any) -> set[str]:
    return {field.name for field in fields(cls)}


def test_every_condition_is_tried_here() -> None:
    assert A_MATCH.keys() == names_of(HTTPMatchRequest)


@pytest.mark.parametrize("name", A_MATCH)
def test_a_condition_of_a_root_or_of_its_delegate_survives_delegation(
    name: str,
) -> None:
    narrow, anything = (
        replace(HTTPMatchRequest(), **{name: A_MATCH[name]}),
        HTTPMatchRequest(),
    )
    assert merge_matches(narrow, anything) == narrow
    assert merge_matches(anything, narrow) == narrow


@pytest.mark.parametrize(
    "name", sorted(A_MATCH.keys() - {"name", "stat_prefix", "ignore_uri_case"})
)
def test_a_match_with_one_more_condition_covers_nothing_wider(name: str) -> None:
    assert not covers(
        replace(HTTPMatchRequest(), **{name: A_MATCH[name]}), HTTPMatchRequest()
    )


def test_a_delegate_inherits_all_but_what_it_decides_itself() -> None:
    own = {"name", "match", "route", "redirect", "delegate"}
    assert set(_INHERITED) == names_of(HTTPRoute) - own


def test_policies_are_merged_by_all_of_their_blocks() -> None:
    assert set(policy._BLOCKS) == names_of(TrafficPolicy) - {"port_level_settings"}
    assert names_of(PortTrafficPolicy) - {"port"} <= set(policy._BLOCKS)


@pytest.mark.parametrize("name", sorted(names_of(PortTrafficPolicy) - {"port"}))
def test_the_settings_of_a_port_replace_each_block(name: str) -> None:
    from dockermesh.config.api.common import PortSelector

    for_port = PortTrafficPolicy(port=PortSelector(80))
    outer = replace(
        TrafficPolicy(), **{name: object()}, port_level_settings=(for_port,)
    )
    applied = policy.effective_policy(policy.HostRule(outer), 80)
    assert getattr(applied, name) is None


def test_every_group_of_resources_has_a_kind() -> None:
    known = {kind.name for kind in (*KINDS, MESH_CONFIG)}
    assert settings._FIELDS.keys() <= known
    assert set(settings._FIELDS.values()) == names_of(settings.IstioConfig) - {"others"}


def read_attributes() -> Iterator[str]:
    """Every attribute that is looked at outside the API and its rules."""
    for path in ROOT.rglob("*.py"):
        if "config" not in path.relative_to(ROOT).parts[:1]:
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute):
                    yield node.attr


def test_settings_of_the_mesh_are_read_or_said_to_be_without_effect() -> None:
    unread = names_of(MeshConfig) - set(read_attributes())
    assert unread <= set(settings._WITHOUT_EFFECT)
    assert set(settings._WITHOUT_EFFECT) <= names_of(MeshConfig)


def test_the_capture_configuration_is_read_from_all_of_its_settings() -> None:
    # One is given by other words, and the port of the DNS is the pod's.
    assert {name for name, _ in CAPTURED.values()} == (
        names_of(CaptureConfig) - {"owner_groups", "dns_port"}
    )
