"""`dockermesh port`: where a published port is."""

from __future__ import annotations

import click

from dockermesh.cli.options import project_options


@click.command()
@project_options
@click.option(
    "--protocol",
    type=click.Choice(["tcp", "udp"], case_sensitive=False),
    default="tcp",
    show_default=True,
    help="Of the port.",
)
@click.option(
    "--index",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Number of the replica  [the first that runs].",
)
@click.argument("service")
@click.argument("private_port", type=click.IntRange(1, 65535))
def command(
    files: tuple[str, ...],
    project_name: str | None,
    protocol: str,
    index: int,
    service: str,
    private_port: int,
) -> None:
    """Print ADDRESS:PORT of the host for a published port, in or out of the mesh.

    That is what `docker compose port` prints without the mesh; in it, Compose finds no port, as the
    gateway or the pod publishes them.
    """
    from dockermesh.client.compose.published_port import published_port
    from dockermesh.docker.compose import load_name
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.model.contract import COMPOSE_PROJECT
    from dockermesh.model.hosts import bracketed

    project = project_name or load_name(files)
    containers = LocalEngine().containers([f"{COMPOSE_PROJECT}={project}"])
    host, port = published_port(containers, service, private_port, protocol, index)
    click.echo(f"{bracketed(host)}:{port}")
