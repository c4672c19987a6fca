"""Compose is asked again unless all is as the last `up` left it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dockermesh.client.compose.settled import (
    forget_settled,
    is_settled,
    remember_settled,
)

TEXT = "services: {web: {image: web}}\n"
SHOP: dict[str, Any] = {"name": "shop", "services": {"web": {"image": "web"}}}


class Engine:
    """A list of containers and images; itself the SDK's client."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = [_container("web"), _container("pod")]
        self.images = {"web": "sha256:web", "pod": "sha256:pod"}

    @property
    def sdk(self) -> Engine:
        return self

    def containers(self, labels: list[str]) -> list[dict[str, Any]]:
        assert labels == ["com.docker.compose.project=shop"]
        return copy.deepcopy(self.listed)

    def inspect_image(self, name: str) -> dict[str, Any]:
        return {"Id": self.images.get(name, name)}


def _container(name: str) -> dict[str, Any]:
    return {
        "Id": f"id-{name}",
        "Image": name,
        "ImageID": f"sha256:{name}",
        "State": "running",
        "Status": "Up 3 minutes (healthy)",
        "NetworkSettings": {"Networks": {"default": {"NetworkID": "net-1"}}},
    }


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    made: Any = Engine()
    remember_settled(made, "shop", tmp_path, TEXT)
    assert is_settled(made, SHOP, tmp_path, TEXT)
    return made


def _stopped(engine: Engine) -> None:
    engine.listed[0] |= {"State": "exited", "Status": "Exited (0) 1 second ago"}


def _another_network(engine: Engine) -> None:
    engine.listed[1]["NetworkSettings"]["Networks"] = {}


CHANGES: dict[str, Callable[[Engine], Any]] = {
    "stopped": _stopped,
    "unhealthy": lambda e: e.listed[0].update(Status="Up 3 minutes (unhealthy)"),
    "starting": lambda e: e.listed[0].update(Status="Up 1 second (health: starting)"),
    "paused": lambda e: e.listed[0].update(State="paused", Status="Up (Paused)"),
    "removed": lambda e: e.listed.pop(),
    "made anew": lambda e: e.listed[0].update(Id="another"),
    "one more": lambda e: e.listed.append(_container("orphan")),
    "a tag that moved": lambda e: e.images.update(web="sha256:new"),
    "a tag that moved, as the engine lists it": lambda e: e.listed[0].update(
        Image="sha256:web"
    ),
    "another network": _another_network,
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changed_is_seen(engine: Any, tmp_path: Path, change: str) -> None:
    CHANGES[change](engine)
    assert not is_settled(engine, SHOP, tmp_path, TEXT)


def test_another_file_is_another_project(engine: Any, tmp_path: Path) -> None:
    assert not is_settled(engine, SHOP, tmp_path, TEXT + "# changed\n")


def test_what_is_not_all_there_is_not_remembered(engine: Any, tmp_path: Path) -> None:
    forget_settled(tmp_path)
    assert not is_settled(engine, SHOP, tmp_path, TEXT)
    # Compose starts a job again, and so must `up`.
    _stopped(engine)
    remember_settled(engine, "shop", tmp_path, TEXT)
    assert not is_settled(engine, SHOP, tmp_path, TEXT)


def test_a_damaged_record_is_none(engine: Any, tmp_path: Path) -> None:
    (tmp_path / "settled.json").write_text("{")
    assert not is_settled(engine, SHOP, tmp_path, TEXT)


@pytest.mark.parametrize(
    ("more", "is_seen"),
    [
        ({"secrets": {"key": {"environment": "KEY"}}}, False),
        ({"secrets": {"key": {"file": "./key"}}}, False),
        ({"configs": {"app": {"file": "./app.conf"}}}, False),
        ({"services": {"web": {}, "db": {"provider": {"type": "cloud"}}}}, False),
        ({"configs": {"app": {"content": "in the file itself"}}}, True),
        ({"secrets": {"key": {"external": True}}, "configs": None}, True),
    ],
)
def test_what_the_file_only_names_may_have_changed(
    engine: Any, tmp_path: Path, more: dict[str, Any], is_seen: bool
) -> None:
    assert is_settled(engine, SHOP | more, tmp_path, TEXT) is is_seen
