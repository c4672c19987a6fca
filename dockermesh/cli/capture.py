"""`dockermesh capture`: what of a pod's traffic goes through its proxy. Parsing and printing
only.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Show the capture rules of pods."""


@click.command()
@click.option(
    "--config",
    "source",
    required=True,
    metavar="FILE",
    help="JSON with istio-iptables' settings, such as InboundPortsInclude; - reads standard input.",
)
@click.option(
    "--pod",
    is_flag=True,
    help="As a pod of this mesh has them: around Docker's DNS, waiting for the proxy.",
)
def render(source: str, pod: bool) -> None:
    """Print iptables-restore text: the IPv4 tables, then the IPv6 ones."""
    from dockermesh.errors import InputError
    from dockermesh.inject.capture import (
        PodOptions,
        parse_capture_config,
        render_capture,
    )

    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(
            f"cannot read: {reason}", where=source, fix="give a JSON file with --config"
        ) from None

    config = parse_capture_config(text, where=source)
    click.echo(render_capture(config, PodOptions() if pod else None), nl=False)


command.add_command(render)
