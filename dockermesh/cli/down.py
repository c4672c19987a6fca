"""`dockermesh down`: remove what `up` made."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Compose file; repeatable.",
)
@click.option("-p", "--project-name", metavar="NAME", help="Name of the project.")
@click.option(
    "-v",
    "--volumes",
    is_flag=True,
    help="Also remove the volumes: the project's, and the mesh's with its CA.",
)
def command(files: tuple[str, ...], project_name: str | None, volumes: bool) -> None:
    """Remove a project, and the mesh with the last one.

    Containers, networks and generated files go; images stay, and volumes unless -v is given.
    """
    from dockermesh.client.compose.bring_up import bring_down, state_home
    from dockermesh.client.compose.engine_record import elsewhere, record_of
    from dockermesh.docker.compose import load_project
    from dockermesh.docker.engine import LocalEngine

    name = project_name or str(load_project(files)["name"])
    removed = bring_down(
        name, volumes=volumes, say=lambda line: click.echo(f"✔ {line}", err=True)
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
