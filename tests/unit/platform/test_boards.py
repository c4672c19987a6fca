"""Grafana's boards and provisioning as files: what Grafana would need of them is there. That their
queries give data is asked of a real Prometheus (tests/protocol/test_boards.py).
"""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest
import yaml
from board_files import BOARDS, FOLDER, boards_script

PROVISIONING = FOLDER.parent / "provisioning"


def test_the_files_are_what_the_script_makes() -> None:
    script = boards_script()
    made = {f"{board.name}.json": script.text(board) for board in script.BOARDS}
    assert made == {name: (FOLDER / name).read_text() for name in BOARDS}, (
        "run: python scripts/boards.py"
    )


@pytest.mark.parametrize("name", list(BOARDS))
def test_every_panel_has_its_place_and_its_queries(name: str) -> None:
    panels: list[dict[str, Any]] = BOARDS[name]["panels"]
    assert [p["id"] for p in panels] == list(range(1, len(panels) + 1))
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["targets"], panel["title"]
            letters = [t["refId"] for t in panel["targets"]]
            assert len(set(letters)) == len(letters)
    for one, other in combinations([p["gridPos"] for p in panels], 2):
        beside = (
            one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        )
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("name", list(BOARDS))
def test_only_variables_that_the_board_has_are_used(name: str) -> None:
    board = BOARDS[name]
    known = {v["name"] for v in board["templating"]["list"]} | {"__rate_interval"}
    used = set(re.findall(r"\$(\w+)", json.dumps(board["panels"])))
    assert used <= known


def test_boards_ask_the_datasource_that_is_provisioned() -> None:
    file = PROVISIONING / "datasources/dockermesh.yaml"
    sources = {s["uid"]: s for s in yaml.safe_load(file.read_text())["datasources"]}
    asked = {
        target["datasource"]["uid"]
        for board in BOARDS.values()
        for panel in board["panels"]
        for target in panel.get("targets", ())
    }
    assert asked == {"dockermesh-prometheus"}
    assert asked <= set(sources)
    assert all(s["access"] == "proxy" and not s["editable"] for s in sources.values())


def test_boards_are_read_from_where_they_are_mounted() -> None:
    (provider,) = yaml.safe_load(
        (PROVISIONING / "dashboards/dockermesh.yaml").read_text()
    )["providers"]
    compose = yaml.safe_load((FOLDER.parents[2] / "telemetry.yaml").read_text())
    grafana = compose["services"]["grafana"]
    mounts = dict(v.split(":")[:2] for v in grafana["volumes"])
    folder = provider["options"]["path"]
    assert mounts["./telemetry/grafana/boards"] == folder
    assert mounts["./telemetry/grafana/provisioning"] == "/etc/grafana/provisioning"
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.rpartition("/")[0] == folder
    assert home.rpartition("/")[2] in BOARDS


def test_uids_are_unique_and_boards_are_read_only() -> None:
    assert len({b["uid"] for b in BOARDS.values()}) == len(BOARDS)
    assert not any(b["editable"] for b in BOARDS.values())
