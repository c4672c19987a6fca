"""`dockermesh analyze`: what is valid but wrong, in the live mesh or in files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_columns, print_data

if TYPE_CHECKING:
    from dockermesh.client.analyze import Request
    from dockermesh.config.findings import Finding

FOUND = 79
"""The exit code for findings at or above the threshold, as istioctl's."""
_LEVELS = click.Choice(["Info", "Warning", "Error"], case_sensitive=False)
_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE|DIR|-]...")
@click.option(
    "--mesh-config",
    "--meshConfigFile",
    type=_FILE,
    metavar="FILE",
    help="Istio's MeshConfig to assume.",
)
@click.option(
    "--catalog",
    type=_FILE,
    metavar="FILE",
    help="YAML file of services and endpoints to assume.",
)
@click.option(
    "--live", is_flag=True, help="Files as if they were applied to the running mesh."
)
@click.option(
    "-R", "--recursive", is_flag=True, help="Folders with all that is below them."
)
@click.option(
    "-n", "--namespace", default="", help="Only what is about this namespace."
)
@click.option(
    "-A",
    "--all-namespaces",
    is_flag=True,
    help="Findings about all namespaces (the default).",
)
@click.option(
    "-S",
    "--suppress",
    multiple=True,
    metavar="CODE=RESOURCE",
    help="Leave out, as IST0101='Gateway gw.*'.",
)
@click.option(
    "--failure-threshold",
    type=_LEVELS,
    default="Error",
    show_default=True,
    help="Level that fails.",
)
@click.option(
    "--output-threshold",
    type=_LEVELS,
    default="Info",
    show_default=True,
    help="Level that is shown.",
)
@output_option("log", "table", "json", "yaml")
@click.option(
    "-L",
    "--list-analyzers",
    is_flag=True,
    help="List analyzers and codes, and do nothing else.",
)
def command(
    files: tuple[str, ...],
    mesh_config: Path | None,
    catalog: Path | None,
    live: bool,
    recursive: bool,
    namespace: str,
    all_namespaces: bool,
    suppress: tuple[str, ...],
    failure_threshold: str,
    output_threshold: str,
    output: str,
    list_analyzers: bool,
) -> int:
    """Say what is valid but wrong: in the running mesh, or in files alone.

    Codes are Istio's where they exist (IST...), else ours (DM...). Kubernetes' objects in files are
    context for the findings. Exits 79 if there is a finding at or above the failure threshold, 2
    for bad usage, else 0.
    """
    import gc

    from dockermesh.client.analyze import Request, run
    from dockermesh.errors import UsageError

    if list_analyzers:
        _print_analyzers()
        return 0
    if namespace and all_namespaces:
        raise UsageError("-n and -A contradict each other", fix="give one of them")

    # Nearly all that is allocated lives until the end, so the collector would only walk it again
    # and again.
    gc.disable()
    request = Request(files, mesh_config, catalog, live, recursive, namespace, suppress)
    found, warnings = run(request)
    for warning in warnings:
        click.echo(f"Warning: {warning}", err=True)

    shown = _at_least(output_threshold, found)
    _print(shown, output)
    if not shown:
        click.echo(
            f"✔ No validation issues found when analyzing {_target(request)}.", err=True
        )

    if not _at_least(failure_threshold, found):
        return 0
    if output == "log":
        click.echo(
            f"Analyzers found issues when analyzing {_target(request)}.", err=True
        )
    return FOUND


def _at_least(threshold: str, found: Sequence[Finding]) -> list[Finding]:
    """The findings of this level, and of worse ones."""
    from dockermesh.config.findings import Level

    rank = Level(threshold.lower()).rank
    return [finding for finding in found if finding.level.rank <= rank]


def _target(request: Request) -> str:
    if request.files:
        return ", ".join(request.files)
    return f"namespace: {request.namespace}" if request.namespace else "all namespaces"


def _print(found: Sequence[Finding], output: str) -> None:
    from dockermesh.analysis.findings import as_line, shown_level, to_dict

    if output in {"json", "yaml"}:
        print_data(
            [to_dict(one) for one in found], output, indent=2, ensure_ascii=False
        )
    elif output == "table":
        rows = [
            (
                shown_level(one.level),
                one.code,
                one.resource,
                f"{one.file}:{one.line}" if one.line else one.file,
                one.message,
            )
            for one in found
        ]
        print_columns(["LEVEL", "CODE", "RESOURCE", "WHERE", "MESSAGE"], rows, gap=3)
    else:
        for one in found:
            click.echo(as_line(one))


def _print_analyzers() -> None:
    from dockermesh.analysis.findings import shown_level
    from dockermesh.analysis.messages import ALL
    from dockermesh.analysis.registry import ANALYZERS

    for analyzer in ANALYZERS:
        click.echo(
            f"* {analyzer.name} ({', '.join(analyzer.codes)}):\n    {analyzer.description}"
        )
    click.echo()
    codes = (
        (message.code, shown_level(message.level), message.name) for message in ALL
    )
    print_columns(["CODE", "LEVEL", "NAME"], list(codes), gap=3)
