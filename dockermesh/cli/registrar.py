"""`dockermesh registrar`: Docker to Consul on this host; `render` shows the mapping of one
container without either.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import click

from dockermesh.errors import InputError
from dockermesh.model.contract import MESH_NETWORK


# Options are written as registrator's (`-internal`) or in the usual way (`--internal`).
@click.group("registrar", invoke_without_command=True)
@click.option(
    "--consul",
    metavar="URL",
    default="",
    help="Consul's address; CONSUL_HTTP_ADDR by default.",
)
@click.option(
    "--host",
    default="",
    help="This host's name in Consul; DOCKERMESH_HOST, else Docker's, by default.",
)
@click.option(
    "--hostname",
    default="",
    help="First part of service ids; the host's name by default.",
)
@click.option(
    "--network", default=MESH_NETWORK, show_default=True, help="The mesh network."
)
@click.option(
    "--ip", "-ip", default="", help="Address of services with published ports."
)
@click.option(
    "--internal",
    "-internal",
    is_flag=True,
    help="Use exposed ports and the containers' own addresses.",
)
@click.option(
    "--explicit", "-explicit", is_flag=True, help="Only containers with SERVICE_NAME."
)
@click.option(
    "--tags",
    "-tags",
    default="",
    help="Tags of all services; a Go template over docker inspect.",
)
@click.option(
    "--use-ip-from-label",
    "-useIpFromLabel",
    default="",
    metavar="LABEL",
    help="Label with the address.",
)
@click.option(
    "--deregister",
    "-deregister",
    type=click.Choice(["always", "on-success"]),
    default="always",
    show_default=True,
    help=(
        "Which containers that ended are taken out of Consul: all, or those that succeeded or ended"
        " by a signal."
    ),
)
@click.option(
    "--ttl",
    "-ttl",
    type=int,
    default=0,
    help="As registrator's; without effect for Consul.",
)
@click.option(
    "--ttl-refresh", "-ttl-refresh", type=int, default=0, help="As registrator's."
)
@click.option(
    "--resync",
    "-resync",
    type=float,
    default=30.0,
    show_default=True,
    help="Seconds between comparisons.",
)
@click.option(
    "--cleanup",
    "-cleanup",
    is_flag=True,
    help="As registrator's; what this host owns is always cleaned up.",
)
@click.option("--no-heal", is_flag=True, help="Never start or restart containers.")
@click.pass_context
def command(ctx: click.Context, /, **flags: Any) -> None:
    """Register this host's containers in Consul, and keep their pods whole."""
    if ctx.invoked_subcommand is None:
        from dockermesh.registrar.run import run_registrar

        run_registrar(flags)


@command.command("render")
@click.option(
    "--inspect",
    "inspect_file",
    type=click.File("rb"),
    required=True,
    help="One object of docker inspect.",
)
@click.option(
    "--flags",
    "flags_file",
    type=click.File("rb"),
    help="registrator's options as a JSON object.",
)
def render(inspect_file: IO[bytes], flags_file: IO[bytes] | None) -> None:
    """Print the bodies for Consul's /v1/agent/service/register."""
    from dockermesh.registrar.render import render_registrations

    flags = _json(flags_file) if flags_file else {}
    bodies, notes = render_registrations(_json(inspect_file), flags)
    for note in notes:
        click.echo(note, err=True)
    click.echo(json.dumps(bodies, indent=2, sort_keys=True))


def _json(file: IO[bytes]) -> Any:
    try:
        return json.loads(file.read())
    except ValueError as error:
        name = Path(getattr(file, "name", "-")).name
        raise InputError(
            f"not JSON: {error}", where=name, fix="give the output of docker inspect"
        ) from None
