"""Projects of one name on several engines keep files of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dockermesh.client.compose.engine_record import (
    EngineRecord,
    elsewhere,
    folder_of,
    forget,
    remember,
    with_pods,
)

HERE = EngineRecord(
    "shop", "ID-A", "unix:///var/run/docker.sock", "-H unix:///var/run/docker.sock"
)
PROD = EngineRecord("shop", "ID-B", "tcp://prod:2376", "--context prod")


def brought_up(home: Path, record: EngineRecord) -> Path:
    folder = folder_of(home, record)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compose.yaml").write_text(record.engine)
    remember(folder, record)
    return folder


def test_the_first_engine_has_the_usual_folder_and_the_next_one_another(
    tmp_path: Path,
) -> None:
    assert brought_up(tmp_path, HERE) == tmp_path / "shop"
    other = brought_up(tmp_path, PROD)
    assert other.name.startswith("shop@")
    assert (tmp_path / "shop" / "compose.yaml").read_text() == "ID-A"
    forget(tmp_path / "shop")
    assert folder_of(tmp_path, PROD) == other
    assert folder_of(tmp_path, HERE) == tmp_path / "shop"
    assert not (tmp_path / "shop").exists()


def test_a_folder_of_an_older_version_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "compose.yaml").touch()
    assert folder_of(tmp_path, PROD) == tmp_path / "shop"


def test_an_engine_that_replaced_another_at_its_address_takes_its_folder(
    tmp_path: Path,
) -> None:
    brought_up(tmp_path, PROD)
    renewed = EngineRecord("shop", "ID-C", PROD.url, PROD.selector)
    assert folder_of(tmp_path, renewed) == tmp_path / "shop"
    assert elsewhere(tmp_path, renewed) == []


def test_what_runs_on_another_engine_is_known_with_the_way_there(
    tmp_path: Path,
) -> None:
    brought_up(tmp_path, PROD)
    [found] = elsewhere(tmp_path, HERE)
    assert found.how("down") == "dockermesh --context prod down"
    assert elsewhere(tmp_path, EngineRecord("other", "ID-A", HERE.url, "")) == []
    assert elsewhere(tmp_path, EngineRecord("", "ID-A", HERE.url, "")) == [PROD]


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    brought_up(tmp_path, PROD)
    (tmp_path / "shop" / "engine.json").write_text("{")
    assert elsewhere(tmp_path, HERE) == []
    assert elsewhere(tmp_path / "nowhere", HERE) == []


def test_which_projects_have_pods_here_is_known_by_what_was_generated(
    tmp_path: Path,
) -> None:
    pods = "labels:\n  dockermesh.io/role: pod\n"
    for name, text in (("shop", pods), ("node-mode", "services: {}"), ("bank", pods)):
        folder = brought_up(tmp_path, replace(HERE, project=name))
        (folder / "compose.yaml").write_text(text)
    (brought_up(tmp_path, PROD) / "compose.yaml").write_text(pods)

    assert with_pods(tmp_path, replace(HERE, project="")) == ["bank", "shop"]
    assert with_pods(tmp_path, HERE) == ["shop"]
    assert with_pods(tmp_path, replace(HERE, project="node-mode")) == []
    assert with_pods(tmp_path / "none", HERE) == []
