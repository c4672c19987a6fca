"""`dockermesh delete`: resources out of the mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from dockermesh.client.mesh.applying import Item


@click.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE|DIR|-",
    help="Delete what is in here; repeatable.",
)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    help="Where the resources are.",
)
@click.option("--dry-run", is_flag=True, help="Change nothing.")
@click.option(
    "--ignore-not-found", is_flag=True, help="What does not exist is no error."
)
def command(
    kind: str | None,
    names: tuple[str, ...],
    files: tuple[str, ...],
    namespace: str,
    dry_run: bool,
    ignore_not_found: bool,
) -> None:
    """Delete resources: KIND NAME..., or those of -f FILE."""
    import os

    from dockermesh.client.mesh import applying
    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint
    from dockermesh.client.mesh.mesh_client import ApiError
    from dockermesh.errors import UsageError

    if bool(files) == bool(kind):
        raise UsageError(
            "name either KIND NAME..., or -f FILE",
            fix="dockermesh delete virtualservice reviews",
        )

    items = (
        _named(kind, names, namespace)
        if kind
        else applying.read_items(files, namespace)[0]
    )
    client = ApiClient(find_endpoint(os.environ), "dockermesh delete")
    # One that is not there keeps no other: the rest is deleted, and the exit code tells.
    failed: ApiError | None = None

    for item in items:
        try:
            outcome = applying.delete(client, item, dry_run=dry_run)
        except ApiError as error:
            if error.code != 404:
                raise
            if not ignore_not_found:
                failed = failed or error
            continue

        click.echo(f"{outcome.title} {outcome.verb}{' (dry run)' if dry_run else ''}")

    if failed is not None:
        raise failed


def _named(kind: str, names: tuple[str, ...], namespace: str) -> list[Item]:
    """The resources of `KIND NAME...` or `KIND/NAME...`, which need no document to be deleted."""
    from dockermesh.cli.get import served_kind
    from dockermesh.client.mesh.applying import Item
    from dockermesh.errors import UsageError

    kind, _, name = kind.partition("/")
    names = (name, *names) if name else names
    if not names:
        raise UsageError(f"which {kind}?", fix=f"dockermesh delete {kind} NAME")

    served = served_kind(kind)
    return [
        Item(served, {"metadata": {"namespace": namespace, "name": n}}) for n in names
    ]
