"""`dockermesh images`: the mesh's own images: which there are, and how they get elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockermesh.cli.options import output_option, registry_option

if TYPE_CHECKING:
    from dockermesh.docker.image_store import ImageStore

_quiet = click.option("-q", "--quiet", is_flag=True, help="No progress.")
_telemetry = click.option(
    "--telemetry",
    is_flag=True,
    help="Prometheus, too, which `up --telemetry` needs where no registry is reached.",
)


@click.group(name="images")
def command() -> None:
    """List, build, pull, push and save the mesh's images.

    `up` builds what is missing, or with DOCKERMESH_IMAGES_FROM=registry/prefix pulls it; these are
    for registries and for engines without a network (`save` here, `docker load -i` there).
    """


@command.command(name="list")
@registry_option
@_telemetry
@output_option("text", "json")
def list_images(output: str, registry: str | None, telemetry: bool) -> None:
    """Show each image's reference, and what the engine has of it."""
    import os

    from dockermesh.client.images.mesh_images import mesh_images, registry_of
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.docker.image_store import ImageStore

    engine = LocalEngine()
    registry = registry or registry_of(engine, os.environ)
    store = ImageStore(engine)
    rows = [
        {
            "name": image.name,
            "image": image.reference,
            "state": image.state.value,
            "digest": store.digest(image.reference),
        }
        for image in mesh_images(
            store, os.environ, registry=registry, addons=_addons(telemetry)
        )
    ]
    if output == "json":
        click.echo(json.dumps(rows, indent=2))
        return

    for row in rows:
        line = f"{row['name']:<14} {row['image']:<40} {row['state']} {row['digest']}"
        click.echo(line.rstrip())


@command.command()
@_telemetry
@_quiet
def build(telemetry: bool, quiet: bool) -> None:
    """Build all of them from the package that is installed."""
    from dockermesh.client.images.building import build as run
    from dockermesh.inject.images import reference

    names = _names(telemetry)
    run(_store(), names, _step(quiet))
    for name in names:
        click.echo(reference(name, {}))


@command.command()
@_telemetry
@_quiet
def fetch(telemetry: bool, quiet: bool) -> None:
    """Download what the builds need, and print the folder that has it."""
    from dockermesh.client.images.building import fetch as run

    click.echo(run(_store(), _names(telemetry), _step(quiet)))


@command.command()
@_telemetry
@_quiet
def pull(telemetry: bool, quiet: bool) -> None:
    """Pull those that DOCKERMESH_IMAGES_FROM or DOCKERMESH_*_IMAGE name; print their digests."""
    import os

    from dockermesh.client.images.mesh_images import mesh_images
    from dockermesh.client.images.preparing import pull as run
    from dockermesh.errors import UsageError

    store = _store()
    images = mesh_images(store, os.environ, addons=_addons(telemetry))
    named = [image for image in images if not image.is_ours]

    if not named:
        raise UsageError(
            "no registry is named, and ours are on none",
            fix="DOCKERMESH_IMAGES_FROM=registry/prefix dockermesh images pull",
        )

    run(named, store, click.echo, _step(quiet))


@command.command()
@click.argument("prefix", metavar="REGISTRY/PREFIX")
@_telemetry
@_quiet
def push(prefix: str, telemetry: bool, quiet: bool) -> None:
    """Push all to a registry of yours, under the tags of this version; print their digests.

    What DOCKERMESH_IMAGES_FROM=REGISTRY/PREFIX then takes. Missing ones are built first.
    """
    from dockermesh.client.images.building import ensure
    from dockermesh.inject.images import REGISTRY_VARIABLE, reference

    store, step = _store(), _step(quiet)
    ensure(store, step, _addons(telemetry))

    for name in _names(telemetry):
        target = reference(name, {REGISTRY_VARIABLE: prefix})
        step(f"pushing {target}")
        click.echo(f"{target} {store.push(reference(name, {}), target)}")


@command.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_telemetry
@_quiet
def save(file: Path, telemetry: bool, quiet: bool) -> None:
    """Write all into a tar, for `docker load -i FILE` on another engine."""
    from dockermesh.client.images.building import ensure
    from dockermesh.errors import InputError
    from dockermesh.inject.images import reference

    store = _store()
    ensure(store, _step(quiet), _addons(telemetry))

    try:
        with file.open("wb") as target:
            store.save([reference(name, {}) for name in _names(telemetry)], target)
    except OSError as error:
        raise InputError(
            f"it cannot be written: {error.strerror}",
            where=str(file),
            fix="name another file",
        ) from error


def _addons(telemetry: bool) -> list[str]:
    from dockermesh.inject.images import ADDON_TAGS

    return list(ADDON_TAGS) if telemetry else []


def _names(telemetry: bool) -> list[str]:
    from dockermesh.inject.images import TAGS

    return [*TAGS, *_addons(telemetry)]


def _store() -> ImageStore:
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.docker.image_store import ImageStore

    return ImageStore(LocalEngine())


def _step(quiet: bool) -> Callable[[str], None]:
    def tell(line: str) -> None:
        if not quiet:
            click.echo(f"  {line}", err=True)

    return tell
