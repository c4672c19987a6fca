"""`dockermesh logs`: what apps and their proxies wrote, in the order of time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dockermesh.client.logs.lines import Line, Source

_COLOURS = (
    "cyan",
    "yellow",
    "green",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_yellow",
    "bright_green",
    "bright_magenta",
    "bright_blue",
)


@click.command()
@click.argument("workloads", nargs=-1, metavar="[WORKLOAD]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--access", is_flag=True, help="Only access logs of proxies.")
@click.option(
    "--code", default="", metavar="CODES", help="Only requests answered so: 404, 5xx."
)
@click.option(
    "--path", default="", metavar="GLOB", help="Only requests for such a path: '/x*'."
)
@click.option(
    "--id",
    "request_id",
    default="",
    metavar="REQUEST-ID",
    help="Only lines with this x-request-id, of apps, too.",
)
@click.option(
    "--since", default="", metavar="TIME", help="Only what is newer: 5m, or a date."
)
@click.option(
    "-n",
    "--tail",
    default=-1,
    metavar="N",
    help="Only the last N lines of each container.",
)
@click.option(
    "-p", "--project-name", default="", metavar="NAME", help="Only this project."
)
@output_option("text", "json", note="json is an object in each line")
def command(
    workloads: tuple[str, ...],
    follow: bool,
    access: bool,
    code: str,
    path: str,
    request_id: str,
    since: str,
    tail: int,
    project_name: str,
    output: str,
) -> None:
    """Show what apps and their proxies wrote, in the order of time.

    Proxies write access logs where a Telemetry or the MeshConfig says so. A request has one id in
    all hops if the apps pass on the header x-request-id.
    """
    import time

    from dockermesh.client.logs.lines import Wanted, parse_codes
    from dockermesh.client.logs.reading import Reader
    from dockermesh.client.logs.since import parse_since
    from dockermesh.client.logs.sources import choose
    from dockermesh.docker.engine import LocalEngine

    wanted = Wanted(access, parse_codes(code), path, request_id)
    begin = parse_since(since, time.time())
    engine = LocalEngine()
    chosen = choose(engine, workloads, project_name)
    sources = chosen.sources(engine)
    last = str(tail) if tail >= 0 else "all"
    reader = Reader(engine, wanted, begin, last, tell=_warn)

    printer = _Printer(sources, output)
    printer.print(reader.history(sources))
    if follow:
        printer.print(reader.follow(lambda: chosen.sources(engine)))


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)


class _Printer:
    def __init__(self, sources: Iterable[Source], output: str) -> None:
        import sys

        self._output = output
        self._is_coloured = sys.stdout.isatty()
        names = dict.fromkeys(source.workload for source in sources)
        # With one project its name says nothing.
        self._is_one = len({name.rpartition("/")[0] for name in names}) <= 1
        self._colours = {
            name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)
        }
        self._width = max((len(self._title(s)) for s in sources), default=0)

    def print(self, lines: Iterable[Line]) -> None:
        """Print each line as soon as it is there."""
        for line in lines:
            text = self._json(line) if self._output == "json" else self._text(line)
            # Not by `echo`, which takes the escapes of an app's own colours away.
            click.echo(text, color=True)

    def _title(self, source: Source) -> str:
        name = source.workload
        short = name.rpartition("/")[2] if self._is_one else name
        return short if source.part == "app" else f"{short} {source.part}"

    def _text(self, line: Line) -> str:
        head = f"{self._title(line.source):<{self._width}} |"
        if self._is_coloured:
            workload = line.source.workload
            colour = self._colours.setdefault(
                workload, _COLOURS[len(self._colours) % len(_COLOURS)]
            )
            head = styled(head, fg=colour)
        return f"{head} {line.text}"

    def _json(self, line: Line) -> str:
        import json
        from datetime import UTC, datetime

        moment = datetime.fromtimestamp(line.time // 10**9, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S"
        )
        shown: dict[str, object] = {
            "time": f"{moment}.{line.time % 10**9:09d}Z",
            "workload": line.source.workload,
            "container": line.source.part,
            "message": line.text,
        }
        if line.access is not None:
            shown["access"] = dict(line.access)
        return json.dumps(shown, ensure_ascii=False)
