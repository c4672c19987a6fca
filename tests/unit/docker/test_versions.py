"""Which versions are told to be other than the tested ones."""

from __future__ import annotations

import pytest

from dockermesh.docker.versions import COMPOSE, ENGINE, VersionRange, parse_version

SOME = VersionRange("Docker", (20, 10), (28, 5))


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "26.1.5", "v28.5.99", "dev", ""])
def test_nothing_is_told_of_a_tested_version_or_of_none(version: str) -> None:
    assert SOME.note(version) == ""


@pytest.mark.parametrize(
    ("version", "age"), [("29.0.0", "newer"), ("28.6", "newer"), ("20.9.1", "older")]
)
def test_a_version_outside_is_told_with_what_was_tested(version: str, age: str) -> None:
    note = (
        f"Docker {version} is {age} than what the mesh was tested with (20.10 to 28.5)"
    )
    assert SOME.note(version) == note


def test_a_packages_suffix_and_a_v_are_no_part_of_a_version() -> None:
    assert [parse_version(v) for v in ("v2.40.3-3", "28.5.2+dfsg4", "5", "none")] == [
        (2, 40),
        (28, 5),
        None,
        None,
    ]


def test_the_table_is_in_order() -> None:
    assert all(tested.oldest <= tested.newest for tested in (ENGINE, COMPOSE))
