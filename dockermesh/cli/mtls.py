"""`dockermesh mtls`: what is encrypted between workloads and services."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from dockermesh.cli.options import output_option

_SHOWN = 3
"""Names of clients in a cell of the table."""


@click.group(name="mtls")
def command() -> None:
    """Look at the encryption between workloads."""


@command.command()
@output_option("table", "json", "yaml")
@click.option(
    "--service",
    metavar="NAME",
    help="Only this service: its hostname or the first part of it.",
)
def status(output: str, service: str | None) -> None:
    """Show for every client and service whether it is encrypted and by what, and what STRICT would
    break.

    It is read from the configuration and the registry: a client without a proxy is known only if it
    is registered.
    """
    from dockermesh.cli.tables import print_data
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.docker.engine import LocalEngine

    client = MeshClient(LocalEngine())
    report = client.mtls()

    if service is not None:
        report["edges"] = [
            e
            for e in report["edges"]
            if service in {e["service"], e["service"].split(".")[0]}
        ]

    if output == "table":
        _print(report, {c for edge in report["edges"] for c in edge["clients"]})
    else:
        print_data(report, output)


def _print(report: Mapping[str, Any], everybody: set[str]) -> None:
    from dockermesh.cli.tables import print_columns

    rows = [
        [
            "/".join(filter(None, (edge["service"], edge["subset"]))),
            str(edge["port"]),
            _clients(edge["clients"], everybody),
            edge["encrypted"],
            ",".join(edge["modes"]) or "-",
            edge["by"],
        ]
        for edge in report["edges"]
    ]
    print_columns(
        ["SERVICE", "PORT", "CLIENTS", "ENCRYPTED", "SERVER", "BY"], rows, gap=2
    )
    click.echo()
    if not report["breaks"]:
        click.echo("STRICT breaks nothing that is known here.")
        return

    click.echo("Under STRICT these are refused:")
    told = [
        [
            b["client"],
            f"{b['server']}:{b['port']}" if b["port"] else b["server"],
            b["why"],
            "refused already" if b["refused"] else b["fix"],
        ]
        for b in report["breaks"]
    ]
    print_columns(["CLIENT", "SERVER", "WHY", "FIX"], told, gap=2)


def _clients(names: Sequence[str], everybody: set[str]) -> str:
    if set(names) == everybody:
        return f"all ({len(names)})"
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
