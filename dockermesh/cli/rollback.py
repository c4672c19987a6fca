"""`dockermesh rollback`: the config as it was, as a new change."""

from __future__ import annotations

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data


@click.command()
@click.argument("number", type=click.IntRange(min=0))
@click.option(
    "--dry-run",
    is_flag=True,
    help="Validate and show what would change, without changing it.",
)
@click.option("--diff", is_flag=True, help="Show the difference of each resource.")
@output_option("text", "json")
def command(number: int, dry_run: bool, diff: bool, output: str) -> None:
    """Restore the config as of NUMBER of `dockermesh history`: all of it, or nothing if a part is
    not valid now.
    """
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint
    from dockermesh.client.mesh.applying import difference
    from dockermesh.client.mesh.mesh_client import ApiError
    from dockermesh.errors import InputError
    from dockermesh.kubeapi.rollback import PATH

    client = ApiClient(find_endpoint(os.environ), "dockermesh rollback")
    try:
        query = {"dryRun": "All"} if dry_run else None
        changes = client.request("POST", f"{PATH}/{number}/rollback", query).body[
            "changes"
        ]
    except ApiError as error:
        if error.code != 404:
            raise
        raise InputError(
            error.what, fix="see `dockermesh history` for the numbers"
        ) from None

    if output == "json":
        print_data(changes, output)
        return

    for change in changes:
        if diff:
            click.echo(
                difference(change["resource"], change["before"], change["after"]),
                nl=False,
            )
        click.echo(
            f"{change['resource']} {change['action']}{' (dry run)' if dry_run else ''}"
        )

    if not changes:
        click.echo(f"Nothing to change: the config is as of {number}.")
