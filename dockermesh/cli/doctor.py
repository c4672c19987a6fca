"""`dockermesh doctor`: look at everything the mesh needs on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option, registry_option

_MARKS = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "failed": ("✘", "red")}


@click.command()
@registry_option
@output_option("text", "json")
def command(output: str, registry: str | None) -> None:
    """Check the engine, Compose, images, ports and kernel features; exit 1 if something fails."""
    from dockermesh.client.compose.doctor import check_up
    from dockermesh.client.compose.doctor_finding import Verdict

    findings = check_up(registry or "")
    if output == "json":
        click.echo(json.dumps([asdict(f) for f in findings], indent=2))
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.verdict.value]
            click.echo(f"{styled(mark, fg=colour)} {finding.name}: {finding.detail}")
            if finding.fix and finding.verdict is not Verdict.OK:
                click.echo(f"    -> {finding.fix}")

    sys.exit(1 if any(f.verdict is Verdict.FAILED for f in findings) else 0)
