"""`dockermesh node-agent`: the agent of a host in node mode, and what that is told."""

from __future__ import annotations

import click


@click.command("node-agent")
@click.option(
    "--release",
    is_flag=True,
    help="Undo all capture on this host; by an exec in the agent's container.",
)
@click.option(
    "--attach", multiple=True, metavar="NAME", help="Take a project in, and end."
)
@click.option(
    "--detach", multiple=True, metavar="NAME", help="Take a project out, and end."
)
@click.option(
    "--containers", is_flag=True, help="--attach and --detach name containers."
)
@click.option("--list", "show", is_flag=True, help="Print what is attached, and end.")
def command(
    release: bool,
    attach: tuple[str, ...],
    detach: tuple[str, ...],
    containers: bool,
    show: bool,
) -> None:
    """Lead this host's containers in node mode to their proxy (a preview).

    It runs in its container, as compose/node.yaml makes it: with the engine's socket, its network
    namespaces, SYS_ADMIN and NET_ADMIN. `dockermesh attach` and `detach` are for people.
    """
    from dockermesh.nodeagent import run

    if release:
        click.echo(f"released: all of {run.release_all()} containers")
    elif attach or detach or show:
        made = run.change(attach=attach, detach=detach, containers=containers)
        click.echo(made.to_json().decode(), nl=False)
    else:
        run.run_agent()
