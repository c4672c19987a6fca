"""A context is written where kubectl would write it, and is the current one for kubectl."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from dockermesh.client.mesh.api_client import Endpoint
from dockermesh.client.mesh.kubeconfig import (
    file_for,
    kubeconfig_files,
    make_current,
    write,
)
from dockermesh.errors import InputError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in ("one", "two", "three")]


def put(file: Path, context: str = "", current: str = "") -> None:
    entries = [{"name": context, "context": {}}] if context else []
    file.write_text(yaml.safe_dump({"contexts": entries, "current-context": current}))


def test_all_files_of_the_variable_are_looked_at(files: list[Path]) -> None:
    text = os.pathsep.join(map(str, files))
    assert kubeconfig_files({"KUBECONFIG": f"{text}{os.pathsep}"}) == files
    assert kubeconfig_files({})[0].name == "config"


def test_the_file_that_has_the_context_gets_it(files: list[Path]) -> None:
    one, two, three = files
    assert file_for(files, "istio") == three, "the last, where there is none"
    put(two)
    assert file_for(files, "istio") == two, "the first that exists"
    put(one, "kind")
    put(three, "istio")
    assert file_for(files, "istio") == three


def test_the_current_context_is_set_where_kubectl_reads_it(files: list[Path]) -> None:
    one, two, three = files
    put(one)
    put(two, "kind", current="kind")
    put(three, "istio")
    write(three, Endpoint("http://127.0.0.1:8080", ""), "istio", set_current=True)
    make_current(files, three, "istio")
    found = [yaml.safe_load(file.read_text())["current-context"] for file in files]
    assert found == ["", "istio", "istio"]
    assert yaml.safe_load(two.read_text())["contexts"][0]["name"] == "kind"


def test_a_file_that_is_no_kubeconfig_is_left_alone(files: list[Path]) -> None:
    files[0].write_text("- a list")
    with pytest.raises(InputError, match="not a mapping"):
        file_for(files, "istio")
    assert files[0].read_text() == "- a list"
