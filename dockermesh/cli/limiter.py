"""`dockermesh limiter`: the limiter by itself, with files of `envoyproxy/ratelimit`."""

from __future__ import annotations

from pathlib import Path

import click

from dockermesh.model.contract import ENV_LIMITER_REDIS, LIMITER_PORT


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="FILE|DIRECTORY...",
    type=click.Path(exists=True, path_type=Path),
)
@click.option(
    "--address",
    default=f"127.0.0.1:{LIMITER_PORT}",
    show_default=True,
    help="Where it listens, in plaintext: whoever reaches it may ask.",
)
@click.option(
    "--redis",
    default="",
    envvar=ENV_LIMITER_REDIS,
    show_envvar=True,
    help="URL of the Redis where it counts [in memory].",
)
def command(paths: tuple[Path, ...], address: str, redis: str) -> None:
    """Serve Envoy's rate limit protocol by files of envoyproxy/ratelimit, without a mesh.

    A change of the files counts within a second or two. In a mesh the control plane runs the
    limiter by itself; this is for Envoys of your own.
    """
    import asyncio
    import contextlib

    from dockermesh.client.limiter import serve_limits

    def say(text: str) -> None:
        click.echo(f"limiter: {text}", err=True)

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve_limits([*paths], address, redis, say))
