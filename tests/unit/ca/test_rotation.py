"""The steps of a root rotation: in every state all leaves that can be about are trusted, and no
step is skipped.
"""

from __future__ import annotations

import datetime
import itertools

import pytest

from dockermesh.ca import (
    Authority,
    Phase,
    Step,
    advance,
    from_json,
    new_material,
    to_json,
)
from dockermesh.ca.certificates import signed_by
from dockermesh.errors import UsageError
from dockermesh.model import Identity

NOW = datetime.datetime.now(datetime.UTC)


def test_between_two_neighbouring_states_every_leaf_of_the_one_is_trusted_in_the_other() -> (
    None
):
    states = [new_material("mesh.test", NOW)]
    for step in Step:
        states.append(advance(states[-1], step, "mesh.test", NOW))
    assert [s.phase for s in states] == [
        Phase.STABLE,
        Phase.PREPARED,
        Phase.SWITCHED,
        Phase.STABLE,
    ]
    assert [s.generation for s in states] == [1, 2, 3, 4]
    assert [len(s.roots) for s in states] == [1, 2, 2, 1]
    for one, two in itertools.pairwise(states):
        for signs, trusts in ((one, two), (two, one), (one, one), (two, two)):
            leaf = Authority(signs).issue_workload(
                Identity("mesh.test", "default", "a")
            )
            assert leaf.signer == signs.signer.id
            assert any(
                signed_by(signs.signer.certificate, root) for root in trusts.roots
            )
    assert states[0].roots != states[3].roots


@pytest.mark.parametrize(
    ("done", "step"),
    [
        ([], Step.SWITCH),
        ([], Step.FINISH),
        ([Step.PREPARE], Step.FINISH),
        ([Step.PREPARE], Step.PREPARE),
    ],
)
def test_a_step_out_of_turn_is_refused(done: list[Step], step: Step) -> None:
    material = new_material("mesh.test", NOW)
    for earlier in done:
        material = advance(material, earlier, "mesh.test", NOW)
    with pytest.raises(UsageError, match="next step"):
        advance(material, step, "mesh.test", NOW)


def test_material_survives_being_written_in_every_phase() -> None:
    material = new_material("mesh.test", NOW)
    for step in (None, *Step):
        material = (
            material if step is None else advance(material, step, "mesh.test", NOW)
        )
        again = from_json(to_json(material))
        assert to_json(again) == to_json(material)
        assert again.signer.id == material.signer.id


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"mesh": 1}', b"null"])
def test_what_is_no_material_is_refused(text: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json(text)
