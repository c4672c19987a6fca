"""The table of kinds."""

from __future__ import annotations

from dataclasses import is_dataclass, replace

import pytest

from dockermesh.config.kinds import KINDS, MESH_CONFIG, Kind


@pytest.mark.parametrize("kind", [*KINDS, MESH_CONFIG], ids=lambda kind: kind.name)
def test_every_kind_has_a_class_and_rules_of_its_own(kind: Kind) -> None:
    assert is_dataclass(kind.spec_class())
    assert callable(kind.check())
    others = {other.check() for other in (*KINDS, MESH_CONFIG) if other is not kind}
    assert kind.check() not in others


def test_a_kind_without_its_rules_is_an_error_not_a_kind_without_validation() -> None:
    misspelt = replace(KINDS[0], rules="check_virtualservice")
    with pytest.raises(AttributeError, match="check_virtualservice"):
        misspelt.check()
