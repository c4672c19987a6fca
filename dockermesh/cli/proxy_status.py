"""`dockermesh proxy-status`: how far each proxy is, and what of one differs from what it should
have.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_columns, print_data

if TYPE_CHECKING:
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.docker.engine import LocalEngine


@click.command()
@click.argument("workload", required=False)
@click.option(
    "-n", "--namespace", default="", metavar="NS", help="The workload's namespace."
)
@output_option("table", "json", "yaml")
def command(workload: str | None, namespace: str, output: str) -> None:
    """Show how far each proxy is with each type of configuration.

    With a WORKLOAD: what differs between what the control plane would send and what its Envoy has.
    """
    from dockermesh.client.inspect.status import COLUMNS, status_entries, status_row
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.docker.engine import LocalEngine

    engine = LocalEngine()
    client = MeshClient(engine)
    if workload:
        _compare(engine, client, workload, namespace, output)
        return

    report = client.workloads()
    entries = status_entries(report)

    if output == "table":
        print_columns(COLUMNS, [status_row(entry) for entry in entries])
    else:
        print_data(entries, output)

    for entry in entries:
        for kind, reason in entry["errors"].items():
            click.echo(f"{entry['name']} refused {kind}: {reason}", err=True)

    for other in report["workloads"]:
        if other["proxy"] is None:
            click.echo(
                f"{other['name']}.{other['namespace']} is not connected", err=True
            )


def _compare(
    engine: LocalEngine, client: MeshClient, workload: str, namespace: str, output: str
) -> None:
    from dockermesh.client.inspect.dump import read_dump
    from dockermesh.client.inspect.node_parts import all_proxies, node_workload, part_of
    from dockermesh.client.inspect.proxies import find_proxy
    from dockermesh.client.inspect.status import compare
    from dockermesh.docker.admin import ProxyAdmin

    found = find_proxy(workload, all_proxies(engine), namespace)
    asked = node_workload(engine) if found.is_part else found.workload
    wanted = read_dump(client.config_dump(asked), "the control plane")
    held = read_dump(ProxyAdmin(engine, found.pod).get("/config_dump"), found.title)
    if found.is_part:
        wanted, held = (part_of(dump, found.workload) for dump in (wanted, held))
    results = compare(wanted, held)

    if output == "table":
        for result in results:
            click.echo(str(result))
        return

    keys = {
        result.title.lower(): {"matches": not result.diff, "diff": result.diff}
        for result in results
    }
    print_data(keys | {"routesLoadedAt": held.routes_loaded_at()}, output)
