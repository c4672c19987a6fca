"""`dockermesh registrar`: Docker to Consul on this host; `render` shows the mapping of one container without either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import click

from dockermesh.errors import InputError


@click.group("registrar", invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Register this host's containers in Consul, and keep their pods whole."""


@command.command("render")
@click.option("--inspect", "inspect_file", type=click.File("rb"), required=True, help="One object of docker inspect.")
@click.option("--flags", "flags_file", type=click.File("rb"), help="registrator's options as a JSON object.")
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
        raise InputError(f"not JSON: {error}", where=name, fix="give the output of docker inspect") from None
