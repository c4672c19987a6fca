"""The wheel alone, in a folder with a Compose file and nothing else, on an engine that has none of
the mesh's images.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import SLACK
from remote_rig import BASE_IMAGE, RemoteEngine, run

ROOT = Path(__file__).parents[2]
APP = """
name: foreign
services:
  web:
    build:
      context: .
      dockerfile_inline: |
        FROM {base}
        RUN mkdir /site && echo hello >/site/index.html
        WORKDIR /site
        {step}
        CMD ["python3", "-m", "http.server", "8000"]
    ports: ["8000:8000"]
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel's content is, as an installer lays it out."""
    built, installed = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    python = (sys.executable, "-m")
    run(*python, "build", "--wheel", "--no-isolation", "-o", str(built), str(ROOT))
    (file,) = built.glob("*.whl")
    run(
        *python,
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(installed),
        str(file),
    )
    return installed


@pytest.fixture
def mesh(engine: RemoteEngine, wheel: Path, tmp_path: Path) -> Callable[..., str]:
    """`dockermesh WORDS` of the wheel, in an empty folder; returns what it printed, both ways."""
    environment = {
        **engine.by_tcp(),
        "PYTHONPATH": str(wheel),
        "BASE_IMAGE": BASE_IMAGE,
    }
    # Downloads are kept for the next run of the tests, as a user's are.
    environment["XDG_CACHE_HOME"] = str(ROOT / "build" / "cache")

    def command(*words: str, check: bool = True) -> str:
        done = run(
            "env", "-C", str(tmp_path), sys.executable, "-m", "dockermesh", *words,
            env=environment, check=check, seconds=180,
        )  # fmt: skip
        return f"{done.stdout}{done.stderr}"

    return command


def our_images(engine: RemoteEngine) -> list[str]:
    """The mesh's images on the engine."""
    listed = engine.docker(
        "images", "--format", "{{.Repository}}:{{.Tag}}"
    ).splitlines()
    return [name for name in listed if name.startswith("dockermesh/")]


def test_the_wheel_builds_its_images_and_pulls_none(
    engine: RemoteEngine, mesh: Callable[..., str], wheel: Path, tmp_path: Path
) -> None:
    (tmp_path / "compose.yaml").write_text(APP.format(base=BASE_IMAGE, step=""))
    if our_images(engine):
        engine.docker("rmi", "--force", *our_images(engine))
    told = (engine.folder / "log").stat().st_size

    try:
        up = mesh("up", "--timeout", "120")
        assert "control-plane" in up, "steps of the build are told"
        assert len(our_images(engine)) == 4
        assert "present" in mesh("images", "list") and "missing" not in mesh(
            "images", "list"
        )

        url = next(word for word in up.split() if word.startswith("http://"))
        with urllib.request.urlopen(url, timeout=10 * SLACK) as answer:
            assert answer.read() == b"hello\n"
        assert "was up to date" in mesh("up")
    finally:
        mesh("down", "-v")

    with (engine.folder / "log").open() as log:
        log.seek(told)
        assert [
            line for line in log if "dockermesh/" in line and "pull" in line.lower()
        ] == []
    # It is the wheel's package that runs, not this checkout's.
    where = "import dockermesh; print(dockermesh.__file__)"
    inside = ("env", "-C", str(tmp_path), sys.executable, "-c", where)
    assert run(*inside, env={"PYTHONPATH": str(wheel)}).stdout.startswith(str(wheel))


def test_a_step_that_fails_is_shown_with_its_output(
    engine: RemoteEngine, mesh: Callable[..., str], tmp_path: Path
) -> None:
    step = "RUN echo the-reason >&2; exit 7"
    text = APP.format(base=BASE_IMAGE, step=step).replace(
        "name: foreign", "name: broken"
    )
    (tmp_path / "compose.yaml").write_text(text)
    try:
        said = mesh("up", check=False)
    finally:
        mesh("down", "-v")
    assert "exit 7" in said and "the-reason" in said, said
    assert engine.docker("ps", "-aq") == ""


def test_plain_compose_asks_no_registry_for_our_images(
    engine: RemoteEngine, mesh: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "compose.yaml"
    file.write_text(
        f"name: plain\nservices: {{web: {{image: '{BASE_IMAGE}', expose: ['80']}}}}\n"
    )
    mesh("inject", "-o", str(tmp_path / "meshed.yaml"))
    text = (tmp_path / "meshed.yaml").read_text()
    (tmp_path / "meshed.yaml").write_text(
        text.replace("dockermesh/pod:", "dockermesh/no-pod:")
    )
    compose = ("docker", "compose", "-f", str(tmp_path / "meshed.yaml"))

    engine.docker("network", "create", "dockermesh")
    engine.docker("volume", "create", "dockermesh-trust")
    try:
        done = run(*compose, "up", "-d", env=engine.by_tcp(), check=False)
        assert done.returncode, "there is no such image"
        assert "pull" not in done.stderr.lower().replace("pull_policy", ""), done.stderr
    finally:
        run(*compose, "down", env=engine.by_tcp())
        engine.docker("network", "rm", "dockermesh", check=False)
        engine.docker("volume", "rm", "dockermesh-trust", check=False)
