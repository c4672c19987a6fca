"""`dockermesh history`: every change of the config, with its number, time and author."""

from __future__ import annotations

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_columns, print_data

_SHOWN = 3


@click.command()
@output_option("table", "wide", "json", "yaml", note="wide names all resources")
def command(output: str) -> None:
    """List the last 100 changes of the config, the newest first; `dockermesh rollback NUMBER` goes
    back to one.
    """
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint
    from dockermesh.kubeapi.rollback import PATH

    entries = ApiClient(find_endpoint(os.environ)).request("GET", PATH).body["entries"]
    if output in {"json", "yaml"}:
        print_data(entries, output)
        return
    if not entries:
        click.echo("No changes yet.", err=True)
        return

    rows = []
    for entry in entries:
        counts = ", ".join(
            f"{n} {action}" for action, n in entry["counts"].items() if n
        )
        named = [r["resource"] for r in entry["resources"]]
        more = len(named) - _SHOWN
        is_cut = output == "table" and more > 0
        listed = ", ".join(named[:_SHOWN] if is_cut else named) + (
            f" and {more} more" if is_cut else ""
        )
        rows.append(
            [
                str(entry["number"]),
                entry["time"],
                entry["who"],
                entry["command"],
                counts,
                listed,
            ]
        )

    print_columns(
        ["NUMBER", "TIME", "WHO", "COMMAND", "CHANGES", "RESOURCES"], rows, gap=3
    )
