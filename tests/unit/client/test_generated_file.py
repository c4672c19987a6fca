"""A project's generated file is known again, and only as it was kept."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from dockermesh.client.compose.generated_file import is_kept, keep
from dockermesh.docker.address import EngineAddress
from dockermesh.errors import InputError


class Engine:
    """What of an engine tells it from others."""

    def __init__(self, name: str = "ID-A") -> None:
        self.name = name
        self.address = EngineAddress(f"tcp://{name}:2376")

    def identity(self) -> str:
        return self.name


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def test_it_is_known_again_as_it_was_kept() -> None:
    engine: Any = Engine()
    assert not is_kept(engine, "shop", "services: {}\n")

    file = keep(engine, "shop", "services: {}\n")
    assert is_kept(engine, "shop", "services: {}\n")
    assert not is_kept(engine, "shop", "services: {a: {}}\n")
    assert not is_kept(engine, "other", "services: {}\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    file.write_text("services: {edited: {}}\n")
    assert not is_kept(engine, "shop", "services: {}\n")


def test_each_engine_has_its_own() -> None:
    here: Any = Engine()
    there: Any = Engine("ID-B")
    keep(here, "shop", "a")
    assert not is_kept(there, "shop", "a")
    keep(there, "shop", "b")
    assert is_kept(here, "shop", "a") and is_kept(there, "shop", "b")


def test_a_place_that_cannot_be_written_is_named(state: Path) -> None:
    (state / "dockermesh").write_text("a file")
    engine: Any = Engine()
    with pytest.raises(InputError, match="cannot be written") as caught:
        keep(engine, "shop", "a")
    assert "dockermesh/shop" in caught.value.where
    assert not is_kept(engine, "shop", "a")
