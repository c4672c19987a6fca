"""`dockermesh up`: a Compose project, brought up in the mesh."""

from __future__ import annotations

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.options import output_option
from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS

if TYPE_CHECKING:
    from dockermesh.client.compose.bring_up import UpResult


@click.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    metavar="FILE",
    help="Compose file; repeatable.",
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
    "--config",
    "configs",
    multiple=True,
    metavar="PATH",
    help="Istio resources: file or directory; repeatable.",
)
@click.option(
    "--registry",
    type=click.Choice([*SERVERS]),
    default=DEFAULT_REGISTRY,
    show_default=True,
    help="Where services are registered; 'docker' needs no Consul, on one host.",
)
@click.option(
    "--gateway-port",
    "gateway_ports",
    multiple=True,
    metavar="A:B",
    help="Published port (or service) A becomes host port B; repeatable.",
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
@click.option(
    "--build", is_flag=True, help="Build the app's images even if they exist."
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    metavar="S",
    help="Seconds until everything must be in sync, once the images are there.",
)
@output_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def command(
    files: tuple[str, ...],
    project_name: str | None,
    project_directory: str | None,
    profiles: tuple[str, ...],
    configs: tuple[str, ...],
    registry: str,
    gateway_ports: tuple[str, ...],
    network: str | None,
    egress_gateway: bool,
    build: bool,
    timeout: float,
    output: str,
    quiet: bool,
) -> None:
    """Bring a Compose app up in the mesh.

    Builds or pulls what is missing, starts the mesh and the app, and returns when every proxy is
    connected and has accepted its configuration. Run again, it changes nothing. `dockermesh down`
    removes all of it.
    """
    from dockermesh.cli.inject import options, read_config, report
    from dockermesh.client.compose.bind_mounts import (
        check_paths,
        mesh_paths,
        mounted_paths,
    )
    from dockermesh.client.compose.bring_up import UpOptions, bring_up, mesh_environment
    from dockermesh.client.compose.mesh_files import mesh_file
    from dockermesh.docker.compose import load_project
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.inject.project import inject_project
    from dockermesh.inject.writer import check, to_yaml

    project = load_project(files, project_name, project_directory, profiles)
    resources = read_config(configs)
    injection = inject_project(
        project,
        options(gateway_ports, resources, network, egress_gateway=egress_gateway),
    )
    # Before the first container: a fault of the generator must not leave half a mesh behind.
    check(injection.project, project)
    if not quiet:
        report(injection)
        _tell_untested()

    paths = chain(
        mounted_paths(injection.project),
        mesh_paths(mesh_environment(), mesh_file().parent),
    )
    for warning in check_paths(LocalEngine(), paths):
        click.echo(f"warning: {warning}", err=True)
    say, step = (_silent, _silent) if quiet else (_say, _step)
    result = bring_up(
        injection,
        to_yaml(injection.project),
        UpOptions(
            registry=registry,
            timeout=timeout,
            resources=resources,
            build=build,
            step=step,
        ),
        say,
    )

    if output == "json":
        click.echo(json.dumps(_document(result), indent=2))
    else:
        _print(result, str(injection.project["name"]))


def _tell_untested() -> None:
    from dockermesh.client.compose.doctor import untested
    from dockermesh.docker.engine import LocalEngine

    if note := untested(LocalEngine()):
        click.echo(f"{click.style('!', fg='yellow')} {note}", err=True)


def _say(line: str) -> None:
    click.echo(f"{click.style('✔', fg='green')} {line}", err=True)


def _step(line: str) -> None:
    click.echo(f"  {line}", err=True)


def _silent(_: str) -> None:
    return


def _document(result: UpResult) -> dict[str, Any]:
    urls: dict[str, list[str]] = {}
    for service, url in result.urls:
        urls.setdefault(service, []).append(url)
    return {"workloads": result.workloads, "urls": urls, "changed": result.changed}


def _print(result: UpResult, project: str) -> None:
    from dockermesh.cli.ps import print_table

    print_table(result.workloads)
    if result.urls:
        click.echo()
        for service, url in result.urls:
            click.echo(f"{service:<20} {url}")
    if not result.changed:
        click.echo(f"\n{project} was up to date: nothing was changed.", err=True)
