"""`dockermesh validate`: Istio resources in files, checked without a mesh.

It is run on many files one by one, so it imports nothing but click, the YAML parser and `config`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data

if TYPE_CHECKING:
    from dockermesh.config.documents import Reading


@click.command()
@click.argument("files", nargs=-1, metavar="FILE|DIR|-...")
@click.option(
    "-f",
    "--filename",
    "more",
    multiple=True,
    metavar="FILE",
    help="As an argument, as istioctl has it.",
)
@click.option(
    "-n",
    "--namespace",
    default="default",
    help="Namespace of resources that name none.",
)
@output_option("text", "json")
def command(
    files: tuple[str, ...], more: tuple[str, ...], namespace: str, output: str
) -> int:
    """Check Istio resources offline.

    Prints every finding with file, line and field. Exits 0 if all resources are valid (warnings
    allowed), else 1.
    """
    import gc

    if not files and not more:
        # click cannot demand the argument: -f stands in for it.
        raise click.UsageError("Missing argument 'FILE|DIR|-...'.")
    from dockermesh.config.files import read_sources
    from dockermesh.config.validate import validate_documents

    # Nearly all that is allocated lives until the end, so the collector would only walk it again
    # and again.
    gc.disable()
    readings = validate_documents(read_sources((*files, *more)), namespace)
    _print(readings, output)

    return 0 if all(reading.is_valid for reading in readings) else 1


def _print(readings: Sequence[Reading], output: str) -> None:
    findings = [finding for reading in readings for finding in reading.findings]
    if output == "json":
        print_data(
            [finding.to_dict() for finding in findings],
            output,
            indent=2,
            ensure_ascii=False,
        )
        return

    for finding in findings:
        click.echo(str(finding))
    errors = sum(finding.is_error for finding in findings)
    valid = sum(len(reading.resources) for reading in readings)
    click.echo(
        f"{valid} valid, {errors} errors, {len(findings) - errors} warnings", err=True
    )


if __name__ == "__main__":
    from dockermesh.cli.main import main

    main(["validate", *sys.argv[1:]])
