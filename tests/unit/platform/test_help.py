"""What `--help` prints."""

from __future__ import annotations

from click.testing import CliRunner

from dockermesh.cli.inject import command


def test_an_example_is_printed_line_by_line_so_that_it_can_be_copied() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    lines = [line.strip() for line in text.splitlines()]
    assert "docker compose -f compose.yaml -f sidecars.yaml up -d" in lines
