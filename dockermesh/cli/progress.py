"""Progress on stderr: on a terminal the step of the moment, in place; else a line per step.

Invariant: what is done stays on the screen, and nothing is written with `--quiet`.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from typing import Self

import click

from dockermesh.cli.colours import styled
from dockermesh.runtime.timeline import mark

_CLEAR = "\r\x1b[K"


class Progress:
    """Takes steps, and what is done, from any thread. Used as a context, it leaves no step
    behind.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        # A dumb terminal would show the escapes.
        self._in_place = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._lock = threading.Lock()
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._clear()

    def say(self, line: str) -> None:
        """Something is done."""
        if not self._quiet:
            with self._lock:
                self._clear()
                click.echo(f"{styled('✔', fg='green')} {line}", err=True)

    def step(self, line: str) -> None:
        """Something happens. What has several lines is to be read, and stays."""
        mark(line.partition("\n")[0])
        if self._quiet:
            return
        with self._lock:
            self._clear()
            if not self._in_place or "\n" in line:
                click.echo(f"  {line}", err=True)
                return
            width = max(1, shutil.get_terminal_size().columns - 3)
            click.echo(f"  {line[:width]}", err=True, nl=False)
            self._shown = True

    def _clear(self) -> None:
        if self._shown:
            click.echo(_CLEAR, err=True, nl=False, color=True)
            self._shown = False
