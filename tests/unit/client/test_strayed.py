"""Plain `docker compose` on a project in the mesh: it is told, and nothing stays of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from dockermesh.client.compose.leftovers import (
    ANONYMOUS_FILE,
    remember_anonymous,
    remove_leftovers,
)
from dockermesh.client.compose.strayed import find_bare, find_strayed
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import EngineError
from dockermesh.model.contract import (
    COMPOSE_ONE_OFF,
    COMPOSE_SERVICE,
    COMPOSE_VOLUME,
    LABEL_KIND,
    LABEL_ROLE,
    LABEL_SERVICE,
    LABEL_WORKLOAD,
)


def part(role: str, service: str = "web", kind: str = "sidecar") -> dict[str, str]:
    return {
        COMPOSE_SERVICE: f"{service}-1-{role}",
        LABEL_ROLE: role,
        LABEL_SERVICE: service,
        LABEL_WORKLOAD: f"shop/{service}-1",
        LABEL_KIND: kind if role == "pod" else "",
    }


PLAIN = {COMPOSE_SERVICE: "web"}
OTHER = {COMPOSE_SERVICE: "cache"}
GATEWAY = part("pod", "gateway", "router")


def test_a_project_as_it_was_brought_up_is_nothing_to_tell_of() -> None:
    meshed = [part("pod"), part("proxy"), part("app"), GATEWAY, OTHER]
    assert find_strayed("shop", meshed) == []
    assert find_strayed("plain", [PLAIN, OTHER]) == []


def test_an_app_that_compose_made_outside_of_its_pod_is_told() -> None:
    (sentence,) = find_strayed("shop", [part("pod"), part("proxy"), PLAIN, OTHER])
    assert "put web outside" in sentence and sentence.startswith("shop: ")
    assert "`dockermesh up`" in sentence


def test_an_app_that_compose_took_from_its_pod_is_told() -> None:
    (sentence,) = find_strayed("shop", [part("pod"), part("proxy"), GATEWAY])
    assert "has taken web and" in sentence and "`dockermesh down`" in sentence


def test_a_project_whose_pods_compose_removed_is_told() -> None:
    assert find_bare("shop", [part("pod"), PLAIN]) == []
    (sentence,) = find_bare("shop", [PLAIN, OTHER])
    assert "outside of the mesh" in sentence and "`dockermesh up`" in sentence
    (sentence,) = find_bare("shop", [])
    assert "nothing of it" in sentence and "`dockermesh down -p shop`" in sentence


def test_what_compose_run_makes_is_no_stray() -> None:
    one_off = PLAIN | {COMPOSE_ONE_OFF: "True"}
    assert find_strayed("shop", [part("pod"), part("app"), one_off]) == []


class Engine:
    """Volumes of an engine; `used` are those of running containers."""

    def __init__(self, volumes: dict[str, dict[str, Any]], used: str = "") -> None:
        self.there, self.used = volumes, used

    def volumes(self, _: list[str]) -> list[dict[str, Any]]:
        return [{"Name": name, **found} for name, found in self.there.items()]

    def remove_volume(self, name: str) -> bool:
        if name == self.used:
            raise EngineError("volume is in use")
        return self.there.pop(name, None) is not None


ANONYMOUS = "ab" * 32


def volume(key: str, kind: str = "") -> dict[str, Any]:
    return {
        "Labels": {COMPOSE_VOLUME: key},
        "Options": {"type": kind} if kind else None,
    }


def left(folder: Path, *, volumes: bool, used: str = "") -> set[str]:
    mounts = [{"Type": "volume", "Name": ANONYMOUS}, {"Type": "bind", "Source": "/x"}]
    remember_anonymous(folder, [{"Mounts": mounts}, {"Mounts": None}])
    # A second `up` does not forget what the first one had.
    remember_anonymous(folder, [{"Mounts": [{"Type": "volume", "Name": "shop_data"}]}])
    engine = Engine(
        {
            "shop_web-1-pod-run": volume("web-1-pod-run", "tmpfs"),
            "shop_their-pod-run": volume("their-pod-run"),
            "shop_data": volume("data"),
            ANONYMOUS: {"Labels": None, "Options": None},
        },
        used,
    )
    remove_leftovers(cast(LocalEngine, engine), "shop", folder, volumes=volumes)
    return set(engine.there)


def test_volumes_of_pods_always_go_and_those_of_apps_when_asked_for(
    tmp_path: Path,
) -> None:
    stays = {"shop_their-pod-run", "shop_data"}
    assert left(tmp_path, volumes=False) == stays | {ANONYMOUS}
    assert left(tmp_path, volumes=True) == stays
    assert left(tmp_path, volumes=True, used=ANONYMOUS) == stays | {ANONYMOUS}


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    (tmp_path / ANONYMOUS_FILE).write_text("{")
    assert ANONYMOUS not in left(tmp_path, volumes=True)
    assert json.loads((tmp_path / ANONYMOUS_FILE).read_text()) == [ANONYMOUS]
