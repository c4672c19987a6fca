"""One bookinfo mesh for the whole session; each test finds it in sync and leaves it in sync.

Invariant: a machine that cannot run these tests fails them, with the reason; what a test breaks is
mended before the next one starts, or that one fails for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from left_behind import end_left_behind
from mesh_rig import APPS, ROOT, SAMPLE, Mesh, diagnosis, docker, run

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()
LAST = ("test_registry_docker.py", "test_daemon_restart.py")
"""Files that turn the whole mesh or the engine over: they run after all others."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # This layer is the last: the mesh that it starts would heal the containers that other layers
    # break on purpose.
    items.sort(
        key=lambda item: (
            HERE in item.path.parents,
            item.path.name in LAST and LAST.index(item.path.name) + 1,
        )
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    # The rest of the suite may skip without an engine; these are the proof that the mesh works, and
    # may not.
    if not shutil.which("docker") or run("docker", "version", check=False).returncode:
        pytest.fail(
            "no Docker engine answers -> run: scripts/setup engine", pytrace=False
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    mesh = getattr(item, "funcargs", {}).get("mesh")
    if report.failed and isinstance(mesh, Mesh):
        report.sections.append(("the mesh", diagnosis(mesh)))
    return report


@pytest.fixture(scope="session")
def engine() -> None:
    """The engine, without what a run before this one may have left there."""
    end_left_behind()


@pytest.fixture(scope="session")
def bookinfo(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Bookinfo in a mesh of the working tree; removed at the end unless somebody had it running
    before.
    """
    was_up = bool(
        docker("ps", "-q", "--filter", "label=com.docker.compose.project=bookinfo")
    )
    mesh = Mesh(tmp_path_factory.mktemp("state"))
    # Images of yesterday's sources would test yesterday's mesh.
    run(str(ROOT / "scripts/setup"), "images", cwd=ROOT)
    mesh.up(SAMPLE, "--build")
    yield mesh
    if not was_up:
        mesh.down("bookinfo")


@pytest.fixture
def mesh(bookinfo: Mesh) -> Iterator[Mesh]:
    """Bookinfo's mesh, in sync before the test and after it."""
    _mend(bookinfo)
    yield bookinfo
    bookinfo.until_synced(30)


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Records how long something took, for the end of the report: figures depend on the machine,
    verdicts do not.
    """

    def record(what: str, seconds: float) -> None:
        request.config.stash.setdefault(FIGURES, []).append(f"{what} {seconds:.2f} s")

    return record


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if figures := config.stash.get(FIGURES, []):
        terminalreporter.section("measured")
        for line in figures:
            terminalreporter.write_line(line)


def _mend(mesh: Mesh) -> None:
    if mesh.is_synced():
        return
    # A test that failed half-way may have left something stopped: that is its failure, not the next
    # one's.
    docker("start", "dockermesh-consul", "dockermesh-control-plane", check=False)
    for app in APPS:
        docker(
            "start",
            f"bookinfo-{app}-1-pod-1",
            f"bookinfo-{app}-1-proxy-1",
            f"bookinfo-{app}-1",
            check=False,
        )
    mesh.up()
    mesh.until_synced(60)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., str]:
    """Writes a small Compose project around bookinfo's `details`, and returns its file's path."""

    def write(
        project: str,
        *,
        replicas: int = 1,
        published: int = 0,
        head: str = "",
        body: str = "",
    ) -> str:
        lines = [
            *([head] if head else []),
            f"name: {project}",
            "services:",
            "  shop:",
            "    image: bookinfo-details-v1",
            f"    environment: {{SERVICE_NAME: {project}-shop, SERVICE_PROTOCOL: http}}",
            '    expose: ["9080"]',
            *([f'    ports: ["{published}:9080"]'] if published else []),
            *([f"    deploy: {{replicas: {replicas}}}"] if replicas > 1 else []),
            body,
        ]
        file = tmp_path / "compose.yaml"
        file.write_text("\n".join(lines) + "\n")
        return str(file)

    return write
