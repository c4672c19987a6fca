"""`dockermesh top`: the traffic at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option
from dockermesh.cli.tables import aligned, print_columns, print_data

if TYPE_CHECKING:
    from dockermesh.client.traffic.stats import By, Line, Look
    from dockermesh.client.traffic.watching import Watching

_NUMBERS = ["SUCCESS", "RPS", "P50", "P90", "P99", "TCP/S", "MTLS", "REQUESTS"]
_COLOURS = {"poor": "yellow", "bad": "red"}
_GAP = 2


def watching(window: float) -> Watching:
    """Looks at the mesh of the engine that is meant."""
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.client.traffic.watching import Watching
    from dockermesh.docker.engine import LocalEngine

    return Watching(MeshClient(LocalEngine()).traffic, window)


def window_option(command: Any) -> Any:
    """`--window` of what has rates."""
    return click.option(
        "--window",
        type=click.FloatRange(min=0, max=600),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="The time that rates are of; 0: only what was counted in all.",
    )(command)


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--by",
    type=click.Choice(["workload", "service", "edge"]),
    default="workload",
    show_default=True,
    help="A line for each workload or service that is called, or for each caller of one.",
)
@click.option(
    "--sort",
    type=click.Choice(["rps", "success", "p50", "p90", "p99", "tcp", "name"]),
    default="rps",
    show_default=True,
    help="What the first line has most of; of success least.",
)
@click.option("--once", is_flag=True, help="One window, and no more.")
@click.option("-d", "--delay", default=2.0, help="Seconds between two looks.")
@window_option
@output_option("table", "json", "yaml", note="json and yaml need --once")
def command(
    names: tuple[str, ...],
    by: str,
    sort: str,
    once: bool,
    delay: float,
    window: float,
    output: str,
) -> None:
    """Show requests, success, durations and bytes of workloads, live.

    With NAMEs, only lines that have one of them. REQUESTS are all since the proxies started. The
    control plane asks the proxies while you look; nothing costs before and after.
    """
    import sys

    from dockermesh.client.traffic.stats import By, arranged

    looking = watching(window)
    if output != "table" and not once:
        raise click.UsageError(f"-o {output} needs --once")

    def found() -> list[Line]:
        return arranged(looking.lines(By(by)), sort, names)

    if once or not sys.stdout.isatty():
        look = looking.once()
        _print_once(look, found(), By(by), looking.seconds, output)
        return
    _live(looking, found, By(by), max(0.5, delay))


def _print_once(
    look: Look, found: Sequence[Line], by: By, seconds: float, output: str
) -> None:
    if output == "table":
        head, *rows = table(found, by)
        print_columns(head, rows, gap=_GAP)
    else:
        data = {
            "seconds": round(seconds, 3),
            **({"durationsSeconds": look.durations_s} if look.durations_s else {}),
            "proxies": {"asked": look.proxies, "silent": len(look.silent)},
            "lines": [line.to_dict() for line in found],
        }
        print_data(data, output, indent=2, ensure_ascii=False)
    note_silent(look)


def note_silent(look: Look) -> None:
    """Say whose counts are missing."""
    if not look.silent:
        return
    named = ", ".join(name for name in look.silent if name)
    more = sum(not name for name in look.silent)
    rest = f" and {more} more" if more else ""
    click.echo(f"no counts from {named}{rest}; see `dockermesh ps`", err=True)


def _live(
    looking: Watching, found: Callable[[], list[Line]], by: By, delay: float
) -> None:
    import shutil
    import time

    click.echo("\x1b[?1049h\x1b[?25l", nl=False)
    try:
        while True:
            look = looking.look()
            size = shutil.get_terminal_size()
            lines = _screen(look, found(), by, looking.seconds, size.columns)
            shown = "\r\n".join(lines[: size.lines - 1])
            click.echo(f"\x1b[H\x1b[J{shown}", nl=False)
            time.sleep(delay)
    finally:
        click.echo("\x1b[?25h\x1b[?1049l", nl=False)


def _screen(
    look: Look, found: Sequence[Line], by: By, seconds: float, width: int
) -> list[str]:
    from dockermesh.client.traffic.stats import Counts

    head, *rows = aligned(table(found, by), _GAP)
    silent = f", {len(look.silent)} silent" if look.silent else ""
    long = f", durations of {look.durations_s:.0f} s" if look.durations_s else ""
    title = (
        f"{look.proxies} proxies{silent}; rates of {seconds:.0f} s{long}; Ctrl-C ends"
    )
    shown = [title[:width], "", styled(head[:width], bold=True)]
    for line, row in zip(found, rows, strict=True):
        quiet = line.recent == Counts()
        colour = _COLOURS.get(line.grade or "")
        shown.append(styled(row[:width], fg=colour, dim=quiet))
    return shown


def table(found: Sequence[Line], by: By) -> list[list[str]]:
    """The head and the rows."""
    if by == "edge":
        head, named = ["FROM", "TO"], [[line.source, line.name] for line in found]
    else:
        head, named = [by.upper()], [[line.name] for line in found]
    pairs = zip(named, found, strict=True)
    return [[*head, *_NUMBERS], *([*first, *_cells(line)] for first, line in pairs)]


def _cells(line: Line) -> list[str]:
    from dockermesh.client.traffic.graph import bytes_text

    moved = line.total.sent + line.total.received
    return [
        _percent(line.success),
        f"{line.rate:.1f}",
        *(_time(line.recent.quantile(share)) for share in (0.5, 0.9, 0.99)),
        bytes_text(line.bytes_rate) if moved else "-",
        _percent(line.mtls, digits=0),
        str(line.total.requests),
    ]


def _percent(share: float | None, *, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.1f}s"
    return f"{milliseconds:.0f}ms" if milliseconds >= 10 else f"{milliseconds:.1f}ms"
