"""What every layer shares: a test that cannot run here says why, and on CI that is a failure.

Invariant: no skip is silent. The markers `binary`, `consul` and `docker` name the real thing that a
test starts.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path

import pytest
from envoy_binary import envoy_binary
from hypothesis import HealthCheck, settings

# A busy machine generates examples slowly, which says nothing about the code.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")

# The tools that scripts/setup puts beside Python must be found however pytest was started.
os.environ["PATH"] = (
    f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
)


def _no_envoy() -> str:
    return "" if envoy_binary() else "no Envoy binary -> run: scripts/setup venv"


def _no_consul() -> str:
    return (
        ""
        if shutil.which("consul")
        else "no Consul binary -> run: scripts/setup consul"
    )


def _no_engine() -> str:
    if not shutil.which("docker"):
        return "no docker command -> run: scripts/setup engine"
    return (
        ""
        if _engine_version()
        else "no Docker engine answers -> run: scripts/setup engine"
    )


def _no_prometheus() -> str:
    return (
        ""
        if shutil.which("prometheus")
        else "no Prometheus binary -> run: scripts/setup prometheus"
    )


def _no_kubectl() -> str:
    return "" if shutil.which("kubectl") else "no kubectl -> run: scripts/setup kubectl"


REQUIREMENTS: dict[str, Callable[[], str]] = {
    "binary": cache(_no_envoy),
    "consul": cache(_no_consul),
    "docker": cache(_no_engine),
    "kubectl": cache(_no_kubectl),
    "prometheus": cache(_no_prometheus),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, missing in REQUIREMENTS.items():
        if item.get_closest_marker(marker) and (reason := missing()):
            pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped, which CI does not allow: {report.longrepr}"
        )
    return report


def pytest_report_header() -> str:
    name = os.environ.get("ENGINE") or "installed"
    return f"engine: {_engine_version() or 'none answers'} ({name})"


def _engine_version() -> str:
    if not shutil.which("docker"):
        return ""
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    answer = subprocess.run(asked, capture_output=True, text=True, check=False)
    return f"Docker {answer.stdout.strip()}" if answer.returncode == 0 else ""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    seconds = Counter[str]()
    reports = [r for found in terminalreporter.stats.values() for r in found]
    for report in reports:
        if isinstance(report, pytest.TestReport):
            seconds[report.nodeid.removeprefix("tests/").partition("/")[0]] += (
                report.duration
            )
    terminalreporter.section("time by layer")
    for layer, spent in seconds.items():
        terminalreporter.write_line(f"{layer} {spent:.0f} s")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write golden files instead of comparing with them",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """Compare text with a golden file, or with --update-golden write it."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.write_text(text)
            return
        assert path.exists(), (
            f"{path} is missing: run pytest --update-golden and review it"
        )
        assert text == path.read_text()

    return compare
