"""`dockermesh convert`: Mixer's resources of Istio 1.0 as today's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data

if TYPE_CHECKING:
    from dockermesh.client.convert.convert import Converted
    from dockermesh.client.convert.report import Line

_COLOURS = {
    "translated": "green",
    "kept": "green",
    "approximated": "yellow",
    "not possible": "red",
}


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE|DIR|-...")
@click.option(
    "-n",
    "--namespace",
    default="default",
    show_default=True,
    help="Namespace of resources that name none.",
)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    metavar="LABELS:ACCOUNT",
    help="The account of callers with these labels, as app=reviews,version=v3:reviews-v3.",
)
@click.option("--strict", is_flag=True, help="Fail, too, if anything is not exact.")
@click.option(
    "--partial",
    is_flag=True,
    help="Print the rest even if something that refused requests is not possible.",
)
@output_option("yaml", "json")
def command(
    files: tuple[str, ...],
    namespace: str,
    accounts: tuple[str, ...],
    strict: bool,
    partial: bool,
    output: str,
) -> int:
    """Turn Mixer's resources of Istio 1.0 into today's.

    Prints RateLimits, AuthorizationPolicies, Telemetry and a MeshConfig, and on stderr what became
    of each resource. Exits 1, without resources, if what refused requests cannot be said.
    """
    from dockermesh.client.convert.callers import read_accounts
    from dockermesh.client.convert.convert import convert
    from dockermesh.config.files import read_sources

    try:
        callers = read_accounts(accounts)
    except ValueError as wrong:
        raise click.BadParameter(str(wrong), param_hint="--account") from None
    converted = convert([*read_sources(files)], namespace, callers)

    for line in converted.report:
        click.echo(_shown(line), err=True)
    lost = converted.lost_guards
    if lost:
        click.echo(_warning(len(lost), partial=partial), err=True)
    if not lost or partial:
        _print(converted, output)
    return 1 if lost or (strict and not _is_exact(converted)) else 0


def _print(converted: Converted, output: str) -> None:
    if output == "json":
        items = {"apiVersion": "v1", "kind": "List", "items": list(converted.resources)}
        print_data(items, output, indent=2, ensure_ascii=False)
        return
    for number, resource in enumerate(converted.resources):
        if number:
            click.echo("---")
        print_data(resource, output)


def _shown(line: Line) -> str:
    words = line.verdict.words
    verdict = styled(words, fg=_COLOURS.get(words), bold=words == "not possible")
    arrow = "to " if words == "translated" else "as " if words == "approximated" else ""
    rest = f" {arrow}{line.text}" if arrow else f": {line.text}" if line.text else ""
    return f"{line.item.place}: {line.item}: {verdict}{rest}"


def _warning(lost: int, *, partial: bool) -> str:
    what = f"{lost} resources that refused requests are lost, so more would pass"
    if partial:
        return f"{what}; the rest is printed"
    return f"{what}: nothing is printed. See to them, or take the rest with --partial."


def _is_exact(converted: Converted) -> bool:
    from dockermesh.client.convert.report import Verdict

    return all(line.verdict <= Verdict.TRANSLATED for line in converted.report)
