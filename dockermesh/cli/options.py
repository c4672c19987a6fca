"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dockermesh.runtime.timeline import Timeline


def output_option(*formats: str, note: str = "") -> Callable[[Any], Any]:
    """`-o FORMAT`; the first is the default. `note` says more about the formats."""
    choice = click.Choice(formats)
    text = f"Output format; {note}." if note else "Output format."
    return click.option(
        "-o", "--output", type=choice, default=formats[0], show_default=True, help=text
    )


def project_options(command: Any) -> Any:
    """`-f FILE` and `-p NAME` of what is about one Compose project."""
    name = click.option(
        "-p", "--project-name", metavar="NAME", help="Name of the project."
    )
    files = click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        metavar="FILE",
        help="Compose file; repeatable.",
    )
    return files(name(command))


def registry_option(command: Any) -> Any:
    """`--registry` of what looks at a mesh."""
    from dockermesh.model.registries import SERVERS

    return click.option(
        "--registry",
        type=click.Choice(sorted(SERVERS)),
        help="The mesh's source of services.  [default: that of the mesh that runs, else consul]",
    )(command)


def source_option(text: str) -> Callable[[Any], Any]:
    """`--registry` of what starts a mesh."""
    from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS

    return click.option(
        "--registry",
        type=click.Choice([*SERVERS]),
        default=DEFAULT_REGISTRY,
        show_default=True,
        help=text,
    )


def verbose_option(command: Any) -> Any:
    """`--verbose` of what takes its time: on stderr, at the end, where that went."""
    return click.option(
        "--verbose",
        is_flag=True,
        expose_value=False,
        callback=_begin_timeline,
        help="Tell at the end where the time went, on stderr.",
    )(command)


def _begin_timeline(
    context: click.Context, _: click.Parameter, is_wanted: bool
) -> None:
    if not is_wanted:
        return
    from dockermesh.runtime import timeline

    kept = timeline.begin()
    kept.mark("Python and the command line are read")
    context.call_on_close(timeline.end)
    # The last to be registered is the first to be called.
    context.call_on_close(lambda: _print_timeline(context.info_name or "", kept))


def _print_timeline(name: str, kept: Timeline) -> None:
    total = kept.now()
    lines = [f"timeline of {name}, in seconds", "    from    took"]
    for entry in kept.entries():
        took = "" if entry.took is None else f"{entry.took:.2f}"
        lines.append(f"{entry.at:8.2f}{took:>8}  {'  ' * entry.depth}{entry.what}")
    click.echo("\n".join([*lines, f"{total:8.2f}          the end"]), err=True)
