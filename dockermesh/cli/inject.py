"""`dockermesh inject`: the meshed form of a Compose project, as a file.

Invariant: the YAML goes to stdout or the file, what the user should know to stderr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from dockermesh.client.mesh.applying import Item
    from dockermesh.inject.options import Injection, InjectOptions


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Compose file; repeatable, '-' is stdin.",
)
@click.option("-p", "--project-name", metavar="NAME", help="Name of the project.")
@click.option(
    "--project-directory", metavar="DIR", help="What relative paths start from."
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="Enable a profile; repeatable.",
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File to write (mode 0600); without it, stdout.",
)
@click.option(
    "--overlay",
    is_flag=True,
    help="Write only the difference, to be given after the original file.",
)
@click.option(
    "--gateway-port",
    "gateway_ports",
    multiple=True,
    metavar="A:B",
    help="Published port (or service) A becomes host port B; 'none': all stay. Repeatable.",
)
@click.option(
    "--config",
    "configs",
    multiple=True,
    metavar="PATH",
    help="Istio resources: a file or directory; repeatable.",
)
@click.option(
    "--network",
    metavar="NAME",
    help="The mesh network [x-dockermesh's, else dockermesh].",
)
@click.option(
    "--egress-gateway",
    is_flag=True,
    help="Run a gateway through which traffic may leave the mesh.",
)
def command(
    *,
    files: tuple[str, ...],
    project_name: str | None,
    project_directory: str | None,
    profiles: tuple[str, ...],
    output: str | None,
    overlay: bool,
    gateway_ports: tuple[str, ...],
    configs: tuple[str, ...],
    network: str | None,
    egress_gateway: bool,
) -> None:
    """Write the meshed form of a Compose project: a pod and a proxy for every replica.

    \b
    dockermesh inject -o meshed.yaml
    docker compose -f meshed.yaml up -d

    \b
    dockermesh inject --overlay -o sidecars.yaml
    docker compose -f compose.yaml -f sidecars.yaml up -d
    """
    from dockermesh.docker.compose import load_project
    from dockermesh.inject.project import inject_project, scaled_notices
    from dockermesh.inject.writer import check, to_yaml

    loaded = load_project(files, project_name, project_directory, profiles)
    project = loaded.project
    resources = read_config(configs)
    injection = inject_project(
        project,
        options(
            gateway_ports,
            resources,
            network,
            egress_gateway=egress_gateway,
            inactive=loaded.inactive,
        ),
    )
    check(injection.project, project)
    text = to_yaml(injection.overlay if overlay else injection.project)

    if output is None or output == "-":
        click.echo(text, nl=False)
    else:
        write_private(Path(output), text)

    if loaded.problem:
        click.echo(
            f"note: services of other profiles are left out: {loaded.problem}", err=True
        )
    report(injection)
    if overlay:
        for notice in scaled_notices(project["services"], injection):
            click.echo(f"note: {notice}", err=True)


def options(
    gateway_ports: Sequence[str],
    resources: Sequence[Item],
    network: str | None,
    *,
    egress_gateway: bool = False,
    inactive: frozenset[str] = frozenset(),
    stored: Sequence[Mapping[str, Any]] = (),
) -> InjectOptions:
    """The generator's options out of the command line and the environment."""
    import os

    from dockermesh.inject.images import Images
    from dockermesh.inject.options import InjectOptions
    from dockermesh.model.contract import consul_domain_of

    return InjectOptions(
        gateway_ports=tuple(gateway_ports),
        config=tuple(item.document for item in resources),
        stored=tuple(stored),
        network=network or "",
        egress_gateway=egress_gateway,
        consul_domain=consul_domain_of(os.environ),
        inactive=inactive,
        images=Images.from_environment(os.environ),
    )


def read_config(paths: Sequence[str]) -> tuple[Item, ...]:
    """The resources in these files and directories. Raises InputError naming every mistake in
    them.
    """
    if not paths:
        return ()
    from dockermesh.client.mesh.applying import read_items

    items, warnings = read_items(paths, "default")
    for warning in warnings:
        click.echo(f"note: {warning}", err=True)
    return tuple(items)


def report(injection: Injection, unsaid: frozenset[str] = frozenset()) -> None:
    """Print the published ports that moved, and the notices but those of some services."""
    for port in injection.ports:
        if port.host_port == port.published:
            continue
        ours = "" if port.generated else ", served by your own Gateway"
        # Which host it is, is not known here: it is the engine's.
        bound = f"{port.host_ip}:" if port.host_ip else ""
        click.echo(
            f"gateway: {port.service}:{port.target} was on host port {port.published}, "
            f"now {bound}{port.host_port} ({port.protocol}{ours})",
            err=True,
        )
    if injection.ports:
        click.echo(
            "gateway: it has the published ports; `dockermesh port SERVICE PORT` says where,"
            " `docker compose port` cannot",
            err=True,
        )
    for notice in injection.notices:
        if notice.service in unsaid:
            continue
        click.echo(f"note: {notice}", err=True)


def write_private(path: Path, text: str) -> None:
    """Write the file at once and for its owner only: the user's environment may hold secrets."""
    from dockermesh.errors import InputError
    from dockermesh.runtime.files import PRIVATE, replace_file

    path = path.resolve()
    try:
        if path.exists() and not path.is_file():
            # A device or a pipe is written to, never replaced: as root that would take /dev/null
            # from everybody.
            path.write_text(text)
            return

        replace_file(path, text.encode(), PRIVATE)
    except OSError as error:
        raise InputError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="choose another -o FILE",
        ) from error
