"""Real apps in the shapes that people have, driven twice: what they do in the mesh is what they do
without it.

All of them run in one mesh, so that its start is paid for once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from drivers import DRIVERS, Seen
from left_behind import end_left_behind
from worlds import App, Meshed, Plain, World, finish, side_by_side

pytestmark = pytest.mark.docker

IMAGE = "dockermesh-apps:test"
ALL = [App(name) for name in DRIVERS]
CHOSEN = os.environ.get("APPS", "").split()
"""Names of apps, to run some alone."""


_EARLY = "a proxy takes the connection before it knows"
_POD = "Docker publishes nothing of a container in its pod's network"
_VIRTUAL = "the mesh carries TCP to a virtual address, and nothing else"
DIFFERENT = {
    ("proxied_flask", "the port"): _POD,
    ("voting", "a closed port"): _EARLY,
    ("compose_keys", "a closed port"): _EARLY,
    ("compose_keys", "the chosen port"): _POD,
    ("compose_keys", "ping"): _VIRTUAL,
    ("compose_keys", "replicas"): "each replica is a service of its own",
    ("name_server", "UDP from inside"): _VIRTUAL,
}
"""What a sidecar cannot do, as docs/limits.md tells."""


@pytest.fixture(scope="module")
def image() -> None:
    end_left_behind()
    base = os.environ.get("BASE_IMAGE", "debian:bookworm-slim")
    directory = str(Path(__file__).parent / "image")
    build = ("docker", "build", "-q", "--build-arg", f"BASE_IMAGE={base}")
    done = finish(*build, "-t", IMAGE, directory)
    assert done.returncode == 0, f"the apps' image was not built\n{done.stderr}"


def _observe_one(world: World, app: App) -> Seen:
    """What one app does, from its start to its end; its trouble is no other's."""
    try:
        world.up(app)
        return DRIVERS[app.name](app)
    except Exception as failure:
        return {"failed": str(failure)}


def _observe(world: World, apps: list[App]) -> dict[str, Seen]:
    """All apps, a few at a time. The first one stays until the end, and what belongs to
    all of them with it.
    """
    first, *others = apps
    seen = {first.name: _observe_one(world, first)}

    def whole_life(app: App) -> tuple[str, Seen]:
        try:
            return app.name, _observe_one(world, app)
        finally:
            world.down(app)

    try:
        seen |= side_by_side(whole_life, others)
    finally:
        world.down(first)
    return seen


@pytest.fixture(scope="module")
def worlds(image: None) -> Iterator[tuple[dict[str, Seen], dict[str, Seen]]]:
    apps = [app for app in ALL if not CHOSEN or app.name in CHOSEN]
    yield _observe(Plain(), apps), _observe(Meshed(), apps)


@pytest.mark.parametrize("app", [app.name for app in ALL])
def test_an_app_does_in_the_mesh_what_it_does_without(
    app: str, worlds: tuple[dict[str, Seen], dict[str, Seen]]
) -> None:
    if CHOSEN and app not in CHOSEN:
        pytest.skip("not among APPS")
    plain, meshed = (dict(seen[app]) for seen in worlds)

    for name in [what for of, what in DIFFERENT if of == app]:
        assert plain.pop(name) != meshed.pop(name), f"{name} is as without the mesh"

    assert meshed == plain
