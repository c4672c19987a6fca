"""`dockermesh down`: remove what `up` made."""

from __future__ import annotations

import click

from dockermesh.cli.options import project_options, verbose_option
from dockermesh.cli.progress import Progress


@click.command()
@project_options
@click.option(
    "-v",
    "--volumes",
    is_flag=True,
    help="Also remove the volumes: the project's, and the mesh's with its CA.",
)
@verbose_option
def command(files: tuple[str, ...], project_name: str | None, volumes: bool) -> None:
    """Remove a project, and the mesh with the last one.

    Containers, networks and generated files go; images stay, and volumes unless -v is given.
    """
    from concurrent.futures import ThreadPoolExecutor

    from dockermesh.docker.compose import load_name

    with ThreadPoolExecutor(1) as pool:
        loaded = None if project_name else pool.submit(load_name, files)
        # Meanwhile: these take as long as Compose does to say the name.
        from dockermesh.client.compose.bring_down import bring_down
        from dockermesh.client.compose.engine_record import (
            elsewhere,
            record_of,
            state_home,
        )
        from dockermesh.docker.engine import LocalEngine

        name = loaded.result() if loaded is not None else str(project_name)

    with Progress() as progress:
        removed = bring_down(
            name, volumes=volumes, say=progress.say, step=progress.step
        )
    if removed:
        return

    engine = LocalEngine()
    others = elsewhere(state_home(), record_of(engine, name))
    if not others:
        click.echo(f"{name} is not running: nothing to remove.", err=True)

    for other in others:
        there = f"but was brought up on {other.url}"
        click.echo(f"{name} is not running on {engine.address}, {there}", err=True)
        click.echo(f"  -> {other.how('down')}", err=True)
