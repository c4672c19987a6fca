"""`--verbose`: where a command's time went."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import click
import pytest
from click.testing import CliRunner

from dockermesh.cli.main import root
from dockermesh.cli.options import verbose_option
from dockermesh.cli.progress import Progress
from dockermesh.runtime.timeline import span


@click.command("work")
@click.option("--fails", is_flag=True)
@verbose_option
def work(fails: bool) -> None:
    with span("outer"):
        time.sleep(0.02)
        with span("inner"):
            time.sleep(0.05)
            Progress(quiet=True).step("web: started\nand its log")
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_beside).result()
    if fails:
        with span("what fails"):
            raise click.ClickException("no engine")
    click.echo("result")


def _beside() -> None:
    with span("beside"):
        pass


def test_each_step_is_told_with_its_time_and_place() -> None:
    done = CliRunner().invoke(work, ["--verbose"])

    assert done.stdout == "result\n"
    title, head, start, *steps, end = done.stderr.splitlines()
    assert title == "timeline of work, in seconds"
    assert head.split() == ["from", "took"]
    assert re.fullmatch(r" +\d+\.\d\d {10}Python and the command line are read", start)
    assert [re.sub(r"^[ \d.]{16}", "", line) for line in steps] == [
        "  outer",
        "    inner",
        "      web: started",
        "  beside",
    ]
    outer, inner = ([float(x) for x in line.split()[:2]] for line in steps[:2])
    assert outer[1] >= 0.07 and 0.05 <= inner[1] < outer[1]
    assert inner[0] >= outer[0] + 0.01
    # Each is rounded.
    assert float(end.split()[0]) > outer[0] + outer[1] - 0.02


def test_what_failed_is_told_too() -> None:
    done = CliRunner().invoke(work, ["--verbose", "--fails"])

    assert done.exit_code == 1
    assert "  what fails" in done.stderr
    assert "Error: no engine" in done.stderr


def test_nothing_is_told_or_kept_unasked() -> None:
    CliRunner().invoke(work, ["--verbose"])
    assert CliRunner().invoke(work, []).stderr == ""
    # Nor does one run have what another did.
    assert CliRunner().invoke(work, ["--verbose"]).stderr.count("outer") == 1


@pytest.mark.parametrize("name", ["up", "down", "attach", "detach", "ps"])
def test_what_takes_its_time_has_it(name: str) -> None:
    assert "--verbose" in CliRunner().invoke(root, [name, "--help"]).stdout
