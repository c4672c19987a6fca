"""`dockermesh graph`: who calls whom."""

from __future__ import annotations

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data
from dockermesh.cli.top import note_silent, watching, window_option


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@window_option
@output_option("text", "dot", "svg", "mermaid", "json")
def command(names: tuple[str, ...], window: float, output: str) -> None:
    """Show who calls whom, with rates and errors.

    With NAMEs, only calls by and of them. Calls of a window of time have rates, others the number
    since the proxies started.
    """
    from dockermesh.client.traffic import drawing, graph
    from dockermesh.client.traffic.stats import By, arranged

    looking = watching(window)
    look = looking.once()
    edges = arranged(looking.lines(By.EDGE), "name", names)
    writers = {
        "text": graph.text,
        "dot": graph.dot,
        "svg": drawing.svg,
        "mermaid": graph.mermaid,
    }
    if output == "json":
        print_data(graph.data(edges), output, indent=2, ensure_ascii=False)
    else:
        click.echo(writers[output](edges))
    note_silent(look)
