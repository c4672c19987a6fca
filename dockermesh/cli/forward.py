"""`dockermesh forward`: the config API on a local port, for kubectl and others."""

from __future__ import annotations

import click


# What follows is another command, whose options are not ours to refuse.
@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def command(words: tuple[str, ...]) -> int:
    """Forward a local port to the config API while COMMAND runs, wherever the engine is.

    COMMAND gets KUBECONFIG, DOCKERMESH_API, DOCKERMESH_TOKEN and DOCKERMESH_CA; its exit code is
    ours: `dockermesh forward -- kubectl get virtualservices`. Without one, the line that sets
    KUBECONFIG in a shell is printed, and the forward stays until Ctrl-C.
    """
    import shlex

    from dockermesh.client.mesh.forwarding import forwarding, run, stop_signal
    from dockermesh.client.mesh.route import Route
    from dockermesh.docker.engine import LocalEngine

    with forwarding(Route(LocalEngine())) as forward:
        if words:
            return run(words, forward)
        stop = stop_signal()
        click.echo(
            f"export KUBECONFIG={shlex.quote(forward.environment['KUBECONFIG'])}"
        )
        click.echo(f"forwarding {forward.url} to the config API until Ctrl-C", err=True)
        stop.wait()

    return 0
