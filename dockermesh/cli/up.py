"""`dockermesh up`: a Compose project, brought up in the mesh."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import (
    output_option,
    project_options,
    source_option,
    verbose_option,
)
from dockermesh.cli.progress import Progress
from dockermesh.model.contract import ENV_MODE

if TYPE_CHECKING:
    from dockermesh.client.compose.bring_up import UpResult
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.inject.options import Injection


@click.command()
@project_options
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
@source_option("Where services are registered; 'docker' needs no Consul, on one host.")
@click.option(
    "--gateway-port",
    "gateway_ports",
    multiple=True,
    metavar="A:B",
    help="Published port (or service) A becomes host port B; 'none': all stay. Repeatable.",
)
@click.option(
    "--network",
    metavar="NAME",
    help="The mesh network [x-dockermesh's, else dockermesh].",
)
@click.option(
    "--mode",
    type=click.Choice(["sidecar", "node"]),
    envvar=ENV_MODE,
    show_envvar=True,
    help=(
        "A proxy per replica, or one for all of this host (a preview) [x-dockermesh's, else"
        " sidecar]."
    ),
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
@click.option(
    "--explicit/--no-explicit",
    default=None,
    help=(
        "Containers outside of the mesh are services only with a SERVICE_NAME [what the mesh has]."
    ),
)
@click.option(
    "--require-healthy",
    is_flag=True,
    help="Fail when an app's health check does; else that is a warning.",
)
@click.option(
    "--telemetry",
    is_flag=True,
    help="Also start Prometheus, Grafana and Zipkin, what of them can be had, on 127.0.0.1.",
)
@output_option("table", "json")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@verbose_option
def command(
    files: tuple[str, ...],
    project_name: str | None,
    project_directory: str | None,
    profiles: tuple[str, ...],
    configs: tuple[str, ...],
    registry: str,
    gateway_ports: tuple[str, ...],
    network: str | None,
    mode: str | None,
    egress_gateway: bool,
    build: bool,
    timeout: float,
    explicit: bool | None,
    require_healthy: bool,
    telemetry: bool,
    output: str,
    quiet: bool,
) -> None:
    """Bring a Compose app up in the mesh.

    Builds or pulls what is missing, starts the mesh and the app, and returns when every proxy is
    connected and has accepted its configuration. Run again, it changes nothing. `dockermesh down`
    removes all of it.
    """
    from concurrent.futures import ThreadPoolExecutor

    from dockermesh.docker.compose import load_project, project_arguments
    from dockermesh.runtime.timeline import span

    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(
            load_project, files, project_name, project_directory, profiles
        )
        # Meanwhile: these take as long as Compose does to read the files.
        with span("modules loaded"):
            from dockermesh.cli.inject import options, read_config, report
            from dockermesh.client.compose.bring_up import UpOptions, bring_up
            from dockermesh.client.compose.generated_file import is_kept
            from dockermesh.client.compose.node_up import PlainProject, bring_up_plain
            from dockermesh.docker.engine import LocalEngine
            from dockermesh.inject.profiles import with_decided_profiles
            from dockermesh.inject.project import inject_project
            from dockermesh.inject.settings import in_node_mode, project_settings
            from dockermesh.inject.writer import check, to_yaml
        loaded = loading.result()
    project = with_decided_profiles(loaded.project, loaded.inactive)
    resources = read_config(configs)
    services = project["services"]
    up_options = UpOptions(
        registry=registry,
        timeout=timeout,
        resources=resources,
        build=build,
        is_strict=require_healthy,
        explicit=explicit,
        telemetry=telemetry,
    )
    settings = project_settings(project)
    if (mode or settings.mode or "sidecar") == "node":
        plain = PlainProject(
            loaded.active,
            tuple(project_arguments(files, project_name, project_directory, profiles)),
            network or settings.network,
        )
        _refuse_gateways(plain.project, gateway_ports, egress_gateway=egress_gateway)
        if telemetry:
            _refuse_telemetry()
        with Progress(quiet=quiet) as progress:
            result = bring_up_plain(
                plain,
                replace(up_options, with_node=True, step=progress.step),
                progress.say,
            )
        _finish(result, None, plain.name, output)
        return

    with span("what the mesh says of proxies read"):
        stored = _starts()
    with span("sidecars injected"):
        injection = inject_project(
            project,
            options(
                gateway_ports,
                resources,
                network,
                egress_gateway=egress_gateway,
                inactive=loaded.inactive,
                stored=stored,
            ),
        )
        text = to_yaml(injection.project)
        engine = LocalEngine()
        # Before the first container: a fault of the generator must not leave half a mesh behind.
        if not is_kept(engine, str(injection.project["name"]), text):
            check(injection.project, project)
    if not quiet:
        report(injection, loaded.inactive)
        _tell_untested(engine)

    with span("mounted paths looked at"):
        _check_mounts(engine, injection, telemetry=telemetry)
    with Progress(quiet=quiet) as progress:
        result = bring_up(
            injection,
            text,
            replace(
                up_options,
                with_node=bool(in_node_mode(services)),
                step=progress.step,
            ),
            progress.say,
        )
    _finish(result, injection, str(injection.project["name"]), output)


def _check_mounts(
    engine: LocalEngine, injection: Injection, *, telemetry: bool
) -> None:
    """Warn of paths that the engine's host lacks. Raises InputError for one that is here alone."""
    from dockermesh.client.compose.bind_mounts import (
        check_paths,
        mesh_paths,
        mounted_paths,
    )
    from dockermesh.client.compose.mesh_files import mesh_environment, mesh_file
    from dockermesh.client.compose.telemetry import telemetry_paths

    paths = chain(
        mounted_paths(injection.project),
        mesh_paths(mesh_environment(), mesh_file().parent),
        telemetry_paths() if telemetry else (),
    )
    for warning in check_paths(engine, paths):
        click.echo(f"warning: {warning}", err=True)


def _finish(
    result: UpResult, injection: Injection | None, project: str, output: str
) -> None:
    for warning in result.warnings:
        click.echo(f"warning: {warning}", err=True)

    if output == "json":
        click.echo(json.dumps(_document(result), indent=2))
    else:
        _print(result, injection, project)


def _refuse_gateways(
    project: Mapping[str, Any], ports: Sequence[str], *, egress_gateway: bool
) -> None:
    """In node mode published ports stay where they are, and there is no gateway yet."""
    from dockermesh.errors import InputError
    from dockermesh.inject.rewrites import NOTHING
    from dockermesh.inject.settings import project_settings

    settings = project_settings(project)
    moved = [p for p in (*ports, *settings.gateway_ports) if p != NOTHING]
    if moved or egress_gateway or settings.egress_gateway:
        raise InputError(
            "node mode has no gateways yet: published ports stay at their containers",
            where=moved[0] if moved else "egress gateway",
            fix="leave it out, or use --mode sidecar",
        )


def _refuse_telemetry() -> None:
    from dockermesh.errors import InputError

    raise InputError(
        "workloads in node mode have no metrics yet",
        where="--telemetry",
        fix="leave it out, or use --mode sidecar",
    )


def _starts() -> tuple[dict[str, Any], ...]:
    """What the mesh that runs says of the start of proxies."""
    from dockermesh.client.mesh.live_mesh import live_starts
    from dockermesh.errors import DockermeshError
    from dockermesh.inject.proxy_config import READ_KINDS

    try:
        return live_starts(READ_KINDS)
    except DockermeshError as error:
        text = "the mesh's ProxyConfigs and MeshConfig cannot be read, and proxies"
        click.echo(f"warning: {text} start without them: {error.what}", err=True)
        return ()


def _tell_untested(engine: LocalEngine) -> None:
    from dockermesh.client.compose.doctor import untested

    if note := untested(engine):
        click.echo(f"{styled('!', fg='yellow')} {note}", err=True)


def _document(result: UpResult) -> dict[str, Any]:
    urls: dict[str, list[str]] = {}
    for service, url in result.urls:
        urls.setdefault(service, []).append(url)
    telemetry = {title.lower(): url for title, url in result.telemetry}
    return {
        "workloads": result.workloads,
        "urls": urls,
        "changed": result.changed,
        **({"telemetry": telemetry} if telemetry else {}),
    }


def _print(result: UpResult, injection: Injection | None, project: str) -> None:
    from dockermesh.cli.ps import print_table
    from dockermesh.client.compose.gateway_urls import titled_urls

    print_table(result.workloads)
    if result.urls and injection is not None:
        click.echo()
        for title, url in titled_urls(injection.ports, result.urls):
            click.echo(f"{title:<20} {url}")
    if result.telemetry:
        click.echo()
    for title, url in result.telemetry:
        click.echo(f"{title:<20} {url}")
    if not result.changed:
        click.echo(f"\n{project} was up to date: nothing was changed.", err=True)
