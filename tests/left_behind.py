"""What a test run that was cut short left on an engine: ended before the next one starts, which
would find somebody else's mesh otherwise.

Invariant: nothing is touched but projects of the tests. Those are told by the files that they were
brought up from, or by a name that only tests give.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCKERMESH = str(Path(sys.executable).parent / "dockermesh")
OF_TESTS = "apps-"
"""How the projects of tests/apps are called."""
_PROJECT = "com.docker.compose.project"
_THINGS = (
    ("container", ("-a",), ("-f", "-v")),
    ("network", (), ()),
    ("volume", (), ("-f",)),
)


def end_left_behind() -> list[str]:
    """Remove the projects, and the mesh with them if nobody else is in it. Returns their names."""
    left = sorted({project for project, file in _projects() if _is_ours(project, file)})
    for project in left:
        _call(DOCKERMESH, "down", "-p", project, "-v")
        _remove(project)
    return left


def _is_ours(project: str, file: str) -> bool:
    return project.startswith(OF_TESTS) or "/pytest-of-" in file


def _projects() -> list[tuple[str, str]]:
    form = f'{{{{.Label "{_PROJECT}"}}}}\t{{{{.Label "{_PROJECT}.config_files"}}}}'
    lines = _call("docker", "ps", "-a", "--format", form).splitlines()
    return [(project, file) for project, _, file in (x.partition("\t") for x in lines)]


def _remove(project: str) -> None:
    """What `down` did not know, or could not remove."""
    for what, listing, removing in _THINGS:
        label = f"label={_PROJECT}={project}"
        found = _call("docker", what, "ls", "-q", *listing, "--filter", label).split()
        if found:
            _call("docker", what, "rm", *removing, *found)


def _call(*command: str) -> str:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return done.stdout
