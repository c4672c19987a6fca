"""`dockermesh kubeconfig`: lets kubectl talk to the mesh."""

from __future__ import annotations

import click

CONTEXT = "istio"


@click.command()
@click.option(
    "--print",
    "only_print",
    is_flag=True,
    help="Print a kubeconfig to stdout instead of changing a file.",
)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    help="The file; '-' is stdout.  [default: $KUBECONFIG or ~/.kube/config]",
)
@click.option(
    "--context",
    default=CONTEXT,
    show_default=True,
    help="Name of the context, the cluster and the user.",
)
@click.option(
    "--set-current/--no-set-current",
    default=True,
    show_default=True,
    help="Make it the current context.",
)
def command(
    only_print: bool, output: str | None, context: str, set_current: bool
) -> None:
    """Write a context for kubectl into the kubeconfig; what else is in it stays.

    Where stdout is a file or a pipe, a kubeconfig with this context alone is printed there, too.
    """
    import os
    import sys
    from pathlib import Path

    from dockermesh.client.mesh.api_client import find_endpoint
    from dockermesh.client.mesh.kubeconfig import (
        file_for,
        kubeconfig_files,
        make_current,
        merged,
        rendered,
        write,
    )
    from dockermesh.errors import NotReadyError

    endpoint = find_endpoint(os.environ)
    if not endpoint.url:
        raise NotReadyError(
            "the config API has no address that leads to it from here",
            where=endpoint.where,
            fix="`dockermesh forward -- kubectl ...` reaches it through the engine",
        )

    if only_print or output == "-" or not sys.stdout.isatty():
        click.echo(rendered(merged({}, endpoint, context, set_current=True)), nl=False)
    if only_print or output == "-":
        return

    files = [Path(output).expanduser()] if output else kubeconfig_files(os.environ)
    file = file_for(files, context)
    write(file, endpoint, context, set_current=set_current)
    if set_current:
        make_current(files, file, context)
    click.echo(
        f"context {context!r} written to {file}; try: kubectl --context {context} get"
        " virtualservices",
        err=True,
    )
