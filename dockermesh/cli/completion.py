"""`dockermesh completion SHELL`: print the script that completes commands and options."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a completion script; e.g. `source <(dockermesh completion bash)`."""
    from click.shell_completion import get_completion_class

    from dockermesh.cli.main import root

    completer = get_completion_class(shell)
    if completer is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(completer(root, {}, "dockermesh", "_DOCKERMESH_COMPLETE").source())
