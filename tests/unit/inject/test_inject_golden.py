"""Whole projects: what the generator writes for them, and what it tells the user.

`<case>.in.yaml` is in the form of `docker compose config`; `<case>.options.yaml` holds options
beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dockermesh.inject.options import Injection, InjectOptions
from dockermesh.inject.project import inject_project
from dockermesh.inject.writer import check, to_yaml

CASES = Path(__file__).parents[2] / "golden" / "inject"
NAMES = sorted(path.name.removesuffix(".in.yaml") for path in CASES.glob("*.in.yaml"))


def injected(case: str) -> tuple[dict[str, Any], Injection]:
    project = yaml.safe_load((CASES / f"{case}.in.yaml").read_text())
    path = CASES / f"{case}.options.yaml"
    given = yaml.safe_load(path.read_text()) if path.exists() else {}
    options = InjectOptions(
        gateway_ports=tuple(given.get("gateway_ports", ())),
        config=tuple(given.get("config", ())),
        network=given.get("network", ""),
    )
    return project, inject_project(project, options)


def told(injection: Injection) -> str:
    lines = [f"# {port}" for port in injection.ports] + [
        f"# {notice}" for notice in injection.notices
    ]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.parametrize("case", NAMES)
def test_meshed_project(case: str, golden: Callable[[Path, str], None]) -> None:
    project, injection = injected(case)
    check(injection.project, project)
    golden(CASES / f"{case}.out.yaml", told(injection) + to_yaml(injection.project))


@pytest.mark.parametrize("case", NAMES)
def test_overlay(case: str, golden: Callable[[Path, str], None]) -> None:
    _, injection = injected(case)
    golden(CASES / f"{case}.overlay.yaml", to_yaml(injection.overlay))


@pytest.mark.parametrize("case", NAMES)
def test_same_input_same_bytes_and_input_untouched(case: str) -> None:
    project, first = injected(case)
    _, second = injected(case)
    assert to_yaml(first.project) == to_yaml(second.project)
    assert project == yaml.safe_load((CASES / f"{case}.in.yaml").read_text())


def test_there_are_cases() -> None:
    assert NAMES
