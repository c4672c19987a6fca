"""`dockermesh apply`: resources from files into the mesh."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="What to apply; repeatable.",
)
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    help="For resources that name none.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Have the control plane check everything, and change nothing.",
)
@click.option("--diff", is_flag=True, help="Print the differences to what is stored.")
@click.option(
    "--prune",
    is_flag=True,
    help=(
        "Delete what an earlier `dockermesh apply` stored in the same namespaces and is not in FILE"
        " any more."
    ),
)
def command(
    files: tuple[str, ...], namespace: str, dry_run: bool, diff: bool, prune: bool
) -> None:
    """Apply Istio resources to the running mesh.

    All of them are validated before the first is stored.
    """
    import os

    from dockermesh.client.mesh import applying
    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint

    items, warnings = applying.read_items(files, namespace)
    for warning in warnings:
        click.echo(warning, err=True)
    client = ApiClient(find_endpoint(os.environ), "dockermesh apply")
    ending = " (dry run)" if dry_run else ""

    for outcome in applying.apply_items(client, items, dry_run=dry_run, diff=diff):
        if outcome.diff:
            click.echo(outcome.diff, nl=False)
        click.echo(f"{outcome.title} {outcome.verb}{ending}", err=diff)

    if prune:
        for outcome in applying.prune(client, items, dry_run=dry_run):
            click.echo(f"{outcome.title} {outcome.verb}{ending}", err=diff)
