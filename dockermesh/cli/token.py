"""`dockermesh token`: list, revoke and create tokens."""

from __future__ import annotations

import json
from typing import Any

import click

from dockermesh.cli.options import output_option


@click.group(name="token")
def command() -> None:
    """List and revoke the tokens of proxies; make one with which a process outside Docker may
    join.
    """


@command.command(name="list")
@output_option("table", "json")
def list_(output: str) -> None:
    """List all tokens by id; the tokens themselves are told to nobody."""
    from dockermesh.client.mesh.mesh_trust import tokens

    found = tokens(_client())
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return

    head = ["ID", "KIND", "WORKLOAD", "NAMESPACE", "ACCOUNT", "STATE", "EXPIRES"]
    rows = [head, *([str(item[key.lower()]) or "-" for key in head] for item in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]

    for row in rows:
        click.echo(
            "  ".join(
                f"{text:<{width}}" for text, width in zip(row, widths, strict=True)
            ).rstrip()
        )


@command.command()
@click.argument("token", metavar="WORKLOAD|ID")
def revoke(token: str) -> None:
    """Revoke a workload's token: its proxy is cut off at once, and its certificate is not renewed.

    A restarted pod makes a new token. To keep a workload out, remove its container.
    """
    from dockermesh.client.mesh.mesh_trust import revoke as take_away

    click.echo(f"revoked: {take_away(_client(), token)}", err=True)


@command.command()
@click.option(
    "--service", required=True, help="The service that the process is a part of."
)
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="Its namespace."
)
@click.option("--account", default="", help="Its service account [the service's name].")
@click.option(
    "--ttl",
    default="1h",
    show_default=True,
    help="How long the token can be used: 10m, 1h, at most 7d.",
)
@output_option("text", "json")
def create(service: str, namespace: str, account: str, ttl: str, output: str) -> None:
    """Print a token with which one process may `dockermesh join`. It works once."""
    from dockermesh.client.mesh.mesh_trust import create_token
    from dockermesh.controlplane.settings import parse_lifetime

    seconds = int(parse_lifetime(ttl).total_seconds())
    made = create_token(
        _client(),
        service=service,
        namespace=namespace,
        account=account,
        seconds=seconds,
    )
    if output == "json":
        click.echo(json.dumps(made, indent=2))
        return

    click.echo(made["token"])
    click.echo(
        f"for {made['service']} as {made['namespace']}/{made['account']}, once, until"
        f" {made['expires']}",
        err=True,
    )


def _client() -> Any:
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint

    return ApiClient(find_endpoint(os.environ))
