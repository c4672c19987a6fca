"""`docker mesh ...`: the same commands as a Docker CLI plugin.

Docker runs `docker-mesh docker-cli-plugin-metadata` for every `docker --help`, so the answer needs
no imports; otherwise it passes its own global options, the word `mesh`, and then our arguments.
"""

from __future__ import annotations

import sys

_METADATA = (
    '{"SchemaVersion":"0.1.0","Vendor":"dockermesh","Version":"%s",'
    '"ShortDescription":"Service mesh for Compose apps","URL":"https://pypi.org/project/dockermesh"}'
)


def main() -> None:
    """Answer Docker, or run the command line behind the word `mesh`."""
    args = sys.argv[1:]
    if args[:1] == ["docker-cli-plugin-metadata"]:
        from dockermesh import __version__

        print(_METADATA % __version__)
        return

    from dockermesh.cli.docker_options import take_docker_options
    from dockermesh.cli.main import main as run

    run(before=lambda: take_docker_options(args))
