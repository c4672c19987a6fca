"""`dockermesh detach`: take containers out of the mesh; they run on."""

from __future__ import annotations

import click

from dockermesh.cli.options import verbose_option
from dockermesh.cli.progress import Progress


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="PROJECT|CONTAINER...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=30.0,
    show_default=True,
    metavar="S",
    help="Seconds to wait until all are let go.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@verbose_option
def command(names: tuple[str, ...], timeout: float, quiet: bool) -> None:
    """Take containers out of the mesh, without a restart (node mode, a preview).

    What was named with `attach`, or came with `up --mode node`, is named the same here.
    """
    from dockermesh.client.compose.node_up import detach_running

    with Progress(quiet=quiet) as progress:
        gone = detach_running(names, timeout, progress.say)
    for name in sorted(gone):
        click.echo(name)
