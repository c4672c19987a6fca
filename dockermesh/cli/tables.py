"""Aligned columns on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click


def print_columns(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, gap: int = 5
) -> None:
    """Print a table with `gap` spaces between columns; 5 is istioctl's."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        cells = (f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
        click.echo((" " * gap).join(cells).rstrip())


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
