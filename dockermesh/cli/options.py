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
