"""`dockermesh join`: make a process outside Docker a workload of the mesh."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--service", required=True, help="The service that the process is a part of."
)
@click.option(
    "--port",
    "ports",
    multiple=True,
    required=True,
    metavar="N[/PROTOCOL]",
    help="A port that it serves; repeatable.",
)
@click.option(
    "-n", "--namespace", default="default", show_default=True, help="Its namespace."
)
@click.option("--account", default="", help="Its service account [the service's name].")
@click.option(
    "--address",
    default="",
    help="The IP address at which the mesh reaches this host [found out].",
)
@click.option(
    "--xds",
    default="",
    metavar="HOST:PORT",
    help="The control plane's xDS [this host's, port 15012].",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    help="A join token, from `dockermesh token create` [made now, which needs the API token].",
)
@click.option(
    "--dns",
    is_flag=True,
    help="Resolve the mesh's names, too: this host's DNS goes to a name server beside the proxy.",
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("dockermesh-join"),
    show_default=True,
    help="Gets envoy.json (with the proxy's token, mode 0600), root.pem and capture.rules.",
)
def command(
    service: str,
    ports: tuple[str, ...],
    namespace: str,
    account: str,
    address: str,
    xds: str,
    token_file: Path | None,
    dns: bool,
    folder: Path,
) -> None:
    """Make a process outside Docker a workload: announce it, and write what an Envoy beside it
    needs.

    The mesh is the one of this host, or the one that DOCKERMESH_API and DOCKERMESH_CA name. With
    --token-file the token says which service and account the process may be.
    """
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint
    from dockermesh.client.mesh.joining import Join, join, xds_address
    from dockermesh.client.mesh.mesh_trust import create_token

    endpoint = find_endpoint(os.environ)
    what = Join(dict(map(_port, ports)), folder, xds or xds_address(), address, dns)

    if token_file is not None:
        token = _read(token_file)
    else:
        made = create_token(
            ApiClient(endpoint),
            service=service,
            namespace=namespace,
            account=account,
            seconds=60,
        )
        token = made["token"]

    joined = join(endpoint, token, what)
    click.echo(
        f"{joined.workload} joined, at {joined.address}. As root, start its proxy:",
        err=True,
    )
    for line in joined.commands:
        click.echo(line)
    click.echo("To leave the mesh, stop it, and then:", err=True)
    for line in joined.leaving:
        click.echo(f"  {line}", err=True)


def _port(text: str) -> tuple[int, str]:
    from dockermesh.errors import UsageError

    number, _, protocol = text.partition("/")
    if not number.isdigit():
        raise UsageError(
            f"no port: {text}", fix="write --port 8080 or --port 8080/http"
        )
    return int(number), protocol or "auto"


def _read(file: Path) -> str:
    from dockermesh.errors import InputError

    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise InputError(
            f"the join token cannot be read: {reason}", where=str(file)
        ) from error
