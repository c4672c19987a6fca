"""The wheel brings every file of compose/ that the source tree has."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_each_file_that_containers_are_made_of_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    there = {
        f"compose/{path.name}"
        for path in (ROOT / "compose").iterdir()
        # What setup found out about this machine.
        if path.name != ".env"
    }
    assert {name for name in included if name.startswith("compose/")} == there
    assert all(
        target == name.replace("compose/", "dockermesh/_compose/")
        for name, target in included.items()
        if name.startswith("compose/")
    )
