"""`dockermesh render`: what a proxy is told, from files, without Docker, Consul or a control
plane.
"""

from __future__ import annotations

from pathlib import Path

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_data

_FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--config",
    "configs",
    multiple=True,
    type=_FILE,
    metavar="PATH",
    help="File or folder of resources.",
)
@click.argument("more", nargs=-1, type=_FILE, metavar="[PATH...]")
@click.option(
    "--catalog", type=_FILE, metavar="FILE", help="YAML file of services and endpoints."
)
@click.option(
    "--workload",
    default="",
    metavar="NAME",
    help="The catalog's workload whose proxy is meant.",
)
@click.option(
    "--proxy",
    type=_FILE,
    metavar="FILE",
    help="JSON file {id, type, namespace, labels, ip}.",
)
@click.option(
    "--static",
    "is_static",
    is_flag=True,
    help="Print a bootstrap that Envoy runs without control plane.",
)
@output_option("json", "yaml")
def command(
    configs: tuple[Path, ...],
    more: tuple[Path, ...],
    catalog: Path | None,
    workload: str,
    proxy: Path | None,
    is_static: bool,
    output: str,
) -> None:
    """Print the listeners, routes, clusters and endpoints of one proxy.

    Resources that are not valid are left out and reported to stderr.
    """
    import gc
    import json
    import os

    from dockermesh.client.offline.render import read_config, render
    from dockermesh.errors import UsageError
    from dockermesh.model.contract import consul_domain_of, service_domain

    if bool(workload) == (proxy is not None):
        raise UsageError(
            "name the proxy by either --workload or --proxy",
            fix="see 'dockermesh render --help'",
        )

    # Nearly all that is allocated lives until the end, so the collector would only walk it again
    # and again.
    gc.disable()
    config, findings = read_config((*configs, *more))
    for finding in findings:
        if finding.is_error:
            click.echo(str(finding), err=True)

    made, problems = render(
        config,
        catalog=catalog,
        workload=workload,
        proxy=proxy,
        is_static=is_static,
        domain=service_domain(consul_domain_of(os.environ)),
    )
    for problem in problems:
        click.echo(problem, err=True)
    # Packed messages come as a kind of dictionary that the YAML library does not know.
    print_data(
        json.loads(json.dumps(made)) if output == "yaml" else made, output, indent=2
    )
