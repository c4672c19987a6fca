"""Nobody who wants no colours gets any."""

from __future__ import annotations

import click
import pytest

from dockermesh.cli.colours import styled
from dockermesh.cli.main import report
from dockermesh.errors import UsageError

ERROR = UsageError("it is wrong", where="file:1", fix="correct it")


def test_errors_are_plain_with_no_color(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As on a terminal: else click takes colours away by itself.
    monkeypatch.setattr(click.utils, "should_strip_ansi", lambda *_: False)
    monkeypatch.setenv("NO_COLOR", "1")
    report(ERROR)
    assert capsys.readouterr().err == "Error: file:1: it is wrong\n  -> correct it\n"
    monkeypatch.delenv("NO_COLOR")
    report(ERROR)
    assert "\x1b[31m" in capsys.readouterr().err


def test_an_empty_no_color_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    assert styled("x", fg="red") == click.style("x", fg="red")
