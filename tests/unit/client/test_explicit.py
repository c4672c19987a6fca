"""`--explicit` is the mesh's: what it was told last holds for every later `up`."""

from __future__ import annotations

from typing import Any

import pytest

from dockermesh.client.compose.mesh_files import explicit_setting

NAME = "DOCKERMESH_EXPLICIT"


@pytest.mark.parametrize(
    ("said", "env", "present", "wanted"),
    [
        (None, {}, None, {}),
        (None, {}, "true", {NAME: "true"}),
        (False, {}, "true", {NAME: "false"}),
        (True, {NAME: "false"}, None, {NAME: "true"}),
        (None, {NAME: "true"}, "false", {}),
    ],
)
def test_what_was_said_last_holds(
    said: bool | None, env: dict[str, str], present: str | None, wanted: dict[str, str]
) -> None:
    entries = ["PATH=/bin", f"{NAME}={present}"] if present else ["PATH=/bin"]
    known: dict[str, Any] | None = {"Config": {"Env": entries}} if present else None
    assert explicit_setting(said, env, known) == wanted
