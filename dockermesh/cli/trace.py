"""`dockermesh trace`: requests on their way through the mesh, as trees."""

from __future__ import annotations

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option


@click.command()
@click.argument("trace_id", default="", metavar="[ID]")
@click.option(
    "-n",
    "--last",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="How many, the newest ones.",
)
@click.option(
    "--service", default="", metavar="NAME", help="Only those it took part in."
)
@click.option(
    "--slow", default="", metavar="TIME", help="Only those that took so long: 500ms."
)
@click.option("--errors", is_flag=True, help="Only those in which something failed.")
@output_option("text", "json", "yaml")
def command(
    trace_id: str, last: int, service: str, slow: str, errors: bool, output: str
) -> None:
    """Show requests on their way through the mesh: the newest, or the one with this ID, which is a
    trace's or an x-request-id.

    Of 100 requests one is traced; all that say `x-b3-sampled: 1`; or as many as a Telemetry says.
    The control plane keeps the newest spans; where a Telemetry or the MeshConfig names another
    collector they are there.
    """
    from dockermesh.cli.tables import print_data
    from dockermesh.client.logs.since import parse_span
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.docker.engine import LocalEngine

    asked = {
        "last": str(last),
        "id": trace_id,
        "service": service,
        "slow_us": str(int(parse_span(slow, "--slow") * 1e6)) if slow else "",
        "errors": "1" if errors else "",
    }
    wanted = {name: value for name, value in asked.items() if value}
    report = MeshClient(LocalEngine()).traces(wanted)
    traces = report["traces"]

    if output != "text":
        print_data(traces, output, ensure_ascii=False)
    else:
        _draw(traces)
    if not traces:
        is_any = trace_id or service or slow or errors
        what = "no trace that is so" if is_any else "no trace yet"
        kept = report["collector"]["spans"]
        click.echo(f"{what}; the control plane has {kept} spans", err=True)
        if not kept:
            click.echo(
                "One of 100 requests is traced, and every one with the header `x-b3-sampled: 1`;"
                " see docs/traces.md.",
                err=True,
            )
    for warning in report.get("warnings", ()):
        click.echo(f"warning: {warning}", err=True)


def _draw(traces: list[list[dict[str, object]]]) -> None:
    import shutil

    from dockermesh.client.traces.drawing import draw
    from dockermesh.client.traces.tree import tree_of

    width = shutil.get_terminal_size((100, 24)).columns

    def style(text: str, how: str) -> str:
        return styled(text, bold=True) if how == "bold" else styled(text, fg=how)

    for number, spans in enumerate(traces):
        if number:
            click.echo()
        for line in draw(tree_of([*spans]), width, style):
            click.echo(line)
