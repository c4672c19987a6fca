"""`docker mesh`: what the real Docker CLI hands to its plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.docker
# Says which engine was meant, in place of a command.
_PLUGIN = """#!/bin/sh
exec {python} -c '
import sys
from dockermesh.cli import plugin
import dockermesh.cli.main as cli
from dockermesh.docker.address import resolve_engine
def told(before): print(*before(), resolve_engine(), sep="|"); sys.exit(0)
cli.main = told
plugin.main()' "$@"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    plugin = tmp_path / "cli-plugins" / "docker-mesh"
    plugin.parent.mkdir()
    plugin.write_text(_PLUGIN.format(python=sys.executable))
    plugin.chmod(0o755)
    return tmp_path


@pytest.mark.parametrize(
    ("before", "engine"),
    [
        (["-c", "mesh"], "tcp://mesh:2375 (context mesh)"),
        (["--context=mesh"], "tcp://mesh:2375 (context mesh)"),
        (["-H", "ssh://vm"], "ssh://vm (DOCKER_HOST)"),
        (["-l", "error", "-DH", "tcp://h:1"], "tcp://h:1 (DOCKER_HOST)"),
    ],
)
def test_options_before_the_word_mesh_choose_the_engine(
    config: Path, before: list[str], engine: str
) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    docker = ["docker", "--config", str(config)]
    create = ["context", "create", "mesh", "--docker", "host=tcp://mesh:2375"]
    subprocess.run([*docker, *create], env=environment, check=True, capture_output=True)
    done = subprocess.run(
        [*docker, *before, "mesh", "ps", "-p", "mesh"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"ps|-p|mesh|{engine}", done.stderr
