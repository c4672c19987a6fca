"""Aligned columns on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click


def print_columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 5
) -> None:
    """Print a table with `gap` spaces between columns; 5 is istioctl's."""
    for line in aligned([head, *rows], gap):
        click.echo(line)


def aligned(rows: Sequence[Sequence[str]], gap: int) -> list[str]:
    """The rows as lines, with `gap` spaces between columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    found = []
    for row in rows:
        cells = (f"{text:<{width}}" for text, width in zip(row, widths, strict=True))
        found.append((" " * gap).join(cells).rstrip())
    return found


def print_data(
    value: object, output: str, *, indent: int = 4, ensure_ascii: bool = True
) -> None:
    """Print as JSON or YAML; JSON is indented by 4 where istioctl's is."""
    import json

    if output == "json":
        click.echo(json.dumps(value, indent=indent, ensure_ascii=ensure_ascii))
        return
    import yaml

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    click.echo(yaml.dump(value, sort_keys=False, Dumper=dumper), nl=False)
