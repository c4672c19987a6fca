"""Colours on the terminal; `click.echo` takes them away where there is none.

Invariant: with NO_COLOR there are none at all (https://no-color.org).
"""

from __future__ import annotations

import os
from typing import Any

import click


def styled(text: str, **how: Any) -> str:
    """The text as `click.style` makes it, unless the user wants it plain."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **how)
