"""`dockermesh attach`: take running containers into the mesh as they are."""

from __future__ import annotations

import click

from dockermesh.cli.options import source_option, verbose_option
from dockermesh.cli.progress import Progress


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="PROJECT|CONTAINER...")
@source_option("Where services are registered, if the mesh is to be started.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds until all must be served, once the mesh's images are there.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@verbose_option
def command(names: tuple[str, ...], registry: str, timeout: float, quiet: bool) -> None:
    """Take running containers into the mesh, without a restart (node mode, a preview).

    A Compose PROJECT stays attached: what `docker compose up` makes of it later is in the mesh,
    too. The mesh is started if it does not run. `dockermesh detach` is the way back.
    """
    from dockermesh.cli.ps import print_table
    from dockermesh.client.compose.bring_up import UpOptions
    from dockermesh.client.compose.node_up import attach_running

    with Progress(quiet=quiet) as progress:
        options = UpOptions(
            registry=registry, timeout=timeout, with_node=True, step=progress.step
        )
        workloads = attach_running(names, options, progress.say)
    print_table(workloads)
