"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


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
