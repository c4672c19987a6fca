"""`dockermesh proxy-config`: what the Envoy of a workload has, with istioctl's words, columns and
flags.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.options import output_option
from dockermesh.cli.tables import print_columns, print_data

if TYPE_CHECKING:
    from dockermesh.client.inspect.dump import Dump
    from dockermesh.client.inspect.proxies import LocalProxy
    from dockermesh.docker.admin import ProxyAdmin

ALIASES = {
    "listener": ("listeners", "l"),
    "route": ("routes", "r"),
    "cluster": ("clusters", "c"),
    "endpoint": ("endpoints", "ep"),
    "bootstrap": ("b",),
    "secret": ("secrets", "s"),
    "log": ("o",),
    "all": ("a",),
}
_NAMES = {alias: name for name, aliases in ALIASES.items() for alias in aliases}


class _Aliased(click.Group):
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _NAMES.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        _, found, rest = super().resolve_command(ctx, args)
        return found.name if found else None, found, rest


@click.group(cls=_Aliased)
def command() -> None:
    """Show what the proxy of a WORKLOAD has.

    WORKLOAD is `bookinfo/reviews-v1-1`, or where that is clear `reviews-v1-1`, `reviews-v1`, or the
    name of a container; `.NAMESPACE` may follow. A saved /config_dump is read with --file instead.
    """


def _source(function: Callable[..., None]) -> Callable[..., None]:
    """The options by which every page is read; a file of another form than Envoy's is refused."""

    @functools.wraps(function)
    def guarded(*, file: Path | None, **options: Any) -> None:
        from dockermesh.errors import InputError

        try:
            function(file=file, **options)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if file is None:
                raise
            text = f"not in the form of Envoy's config dump: {error}"
            raise InputError(
                text, where=str(file), fix="save Envoy's /config_dump as it is"
            ) from error

    decorated: Callable[..., None] = guarded
    for option in (
        click.option(
            "-n",
            "--namespace",
            default="",
            metavar="NS",
            help="The workload's namespace.",
        ),
        click.option(
            "-f",
            "--file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Read Envoy's config dump from here.",
        ),
        output_option("short", "json", "yaml"),
        click.argument("workload", required=False),
    ):
        decorated = option(decorated)

    return decorated


@command.command("cluster")
@_source
@click.option("--fqdn", default="", help="Only clusters with this in the name.")
@click.option("--port", default=0, help="Only clusters of this port.")
@click.option("--subset", default="", help="Only clusters of this subset.")
@click.option("--direction", default="", help="Only inbound, or outbound, clusters.")
def cluster(
    fqdn: str, port: int, subset: str, direction: str, output: str, **source: Any
) -> None:
    """Clusters (aliases: clusters, c)."""
    from dockermesh.client.inspect import tables

    wanted = tables.ClusterFilter(fqdn, port, subset, direction)
    found = [c for c in _dump(**source).clusters() if wanted.takes(c)]
    _show(output, found, tables.CLUSTERS, tables.cluster_rows(found))


@command.command("listener")
@_source
@click.option("--address", default="", help="Only listeners on this address.")
@click.option("--port", default=0, help="Only listeners on this port.")
@click.option(
    "--type",
    "kind",
    default="",
    help="Only listeners of this type: HTTP, TCP, HTTP+TCP.",
)
def listener(address: str, port: int, kind: str, output: str, **source: Any) -> None:
    """Listeners (aliases: listeners, l)."""
    from dockermesh.client.inspect import tables

    wanted = tables.ListenerFilter(address, port, kind)
    found = [item for item in _dump(**source).listeners() if wanted.takes(item)]
    _show(output, found, tables.LISTENERS, tables.listener_rows(found))


@command.command("route")
@_source
@click.option("--name", default="", help="Only the route table of this name.")
def route(name: str, output: str, **source: Any) -> None:
    """Routes (aliases: routes, r)."""
    from dockermesh.client.inspect import tables

    found = [
        table
        for table in _dump(**source).routes()
        if name in {"", table.get("name", "")}
    ]
    _show(output, found, tables.ROUTES, tables.route_rows(found))


@command.command("endpoint")
@_source
@click.option("--address", default="", help="Only endpoints at this address.")
@click.option("--port", default=0, help="Only endpoints at this port.")
@click.option(
    "--cluster", "cluster_name", default="", help="Only endpoints of this cluster."
)
@click.option(
    "--status",
    default="",
    help="Only endpoints of this status: HEALTHY, UNHEALTHY, DRAINING, ...",
)
def endpoint(
    address: str, port: int, cluster_name: str, status: str, output: str, **source: Any
) -> None:
    """Endpoints (aliases: endpoints, ep)."""
    from dockermesh.client.inspect import tables

    wanted = tables.EndpointFilter(address, port, cluster_name, status)
    statuses = _statuses(**source)
    shown = [
        s
        for s in statuses
        if any(
            wanted.takes(h, str(s.get("name", ""))) for h in s.get("host_statuses", ())
        )
    ]
    _show(output, shown, tables.ENDPOINTS, tables.endpoint_rows(shown, wanted))


@command.command("bootstrap")
@_source
def bootstrap(output: str, **source: Any) -> None:
    """The bootstrap (alias: b); always whole, so `short` is JSON."""
    from dockermesh.client.inspect.dump import public_names

    print_data(
        {"bootstrap": public_names(_dump(**source).bootstrap())},
        "json" if output == "short" else output,
    )


@command.command("secret")
@_source
def secret(output: str, **source: Any) -> None:
    """Certificates, never their private keys (aliases: secrets, s)."""
    from datetime import UTC, datetime

    from dockermesh.client.inspect.secrets import COLUMNS, secret_items

    items = secret_items(_dump(**source).secrets(), datetime.now(UTC))
    if output != "short":
        print_data([item.to_dict() for item in items], output)
    elif items:
        print_columns(COLUMNS, [item.row() for item in items])
    else:
        click.echo("No secret items to show.")


@command.command("all")
@_source
def everything(output: str, **source: Any) -> None:
    """Clusters, listeners, routes, endpoints and secrets; or as JSON the whole dump (alias: a)."""
    from datetime import UTC, datetime

    from dockermesh.client.inspect import tables
    from dockermesh.client.inspect.secrets import COLUMNS, secret_items

    dump = _dump(**source)
    if output != "short":
        print_data({"configs": list(dump.sections.values())}, output)
        return

    print_columns(tables.CLUSTERS, tables.cluster_rows(dump.clusters()))
    click.echo()
    print_columns(tables.LISTENERS, tables.listener_rows(dump.listeners()), gap=1)
    click.echo()
    print_columns(tables.ROUTES, tables.route_rows(dump.routes()))
    click.echo()
    statuses = tables.cluster_statuses(dump.endpoints())
    print_columns(
        tables.ENDPOINTS, tables.endpoint_rows(statuses, tables.EndpointFilter())
    )
    items = secret_items(dump.secrets(), datetime.now(UTC))
    if items:
        click.echo()
        print_columns(COLUMNS, [item.row() for item in items])


@command.command("log")
@click.argument("workload")
@click.option(
    "-n", "--namespace", default="", metavar="NS", help="The workload's namespace."
)
@click.option(
    "--level",
    default="",
    help="LEVEL for all loggers, or LOGGER:LEVEL[,LOGGER:LEVEL...].",
)
@click.option(
    "--reset", is_flag=True, help="Back to `warning`, at which proxies start."
)
def log(workload: str, namespace: str, level: str, reset: bool) -> None:
    """Levels of the proxy's loggers, shown or changed (alias: o)."""
    from dockermesh.client.inspect.logging import logging_paths

    proxy, admin = _proxy(workload, namespace)
    answer = b""
    for path in logging_paths("warning" if reset else level):
        answer = admin.post(path)
    click.echo(f"{proxy.title}:\n{answer.decode()}", nl=False)


def _proxy(workload: str | None, namespace: str) -> tuple[LocalProxy, ProxyAdmin]:
    from dockermesh.client.inspect.node_parts import all_proxies
    from dockermesh.client.inspect.proxies import find_proxy
    from dockermesh.docker.admin import ProxyAdmin
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.errors import UsageError

    if not workload:
        raise UsageError(
            "name a workload, or a file with --file",
            fix="see `dockermesh ps` for the workloads",
        )

    engine = LocalEngine()
    found = find_proxy(workload, all_proxies(engine), namespace)
    return found, ProxyAdmin(engine, found.pod)


def _dump(*, workload: str | None, namespace: str, file: Path | None) -> Dump:
    from dockermesh.client.inspect.dump import read_dump
    from dockermesh.client.inspect.node_parts import part_of

    if file is not None:
        return read_dump(_read(file), str(file))
    proxy, admin = _proxy(workload, namespace)
    dump = read_dump(admin.get("/config_dump?include_eds"), proxy.title)
    return part_of(dump, proxy.workload) if proxy.is_part else dump


def _statuses(
    *, workload: str | None, namespace: str, file: Path | None
) -> list[dict[str, Any]]:
    """Envoy's view of its endpoints; a file may be /clusters?format=json, or
    /config_dump?include_eds.
    """
    from dockermesh.client.inspect.dump import read_dump, read_json
    from dockermesh.client.inspect.tables import cluster_statuses

    if file is None:
        proxy, admin = _proxy(workload, namespace)
        title = proxy.title
        content = admin.get("/clusters?format=json")
    else:
        title, content = str(file), _read(file)

    found = read_json(content, title)
    if "cluster_statuses" in found:
        return list(found["cluster_statuses"])
    return cluster_statuses(read_dump(content, title).endpoints())


def _read(file: Path) -> bytes:
    from dockermesh.errors import InputError

    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot be read: {error.strerror}", where=str(file), fix="check the path"
        ) from None


def _show(
    output: str,
    found: Sequence[Any],
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    from dockermesh.client.inspect.dump import public_names
    from dockermesh.client.inspect.tables import LISTENERS

    if output == "short":
        print_columns(head, rows, gap=1 if head is LISTENERS else 5)
    else:
        print_data(
            [
                {k: v for k, v in public_names(item).items() if k != "@type"}
                for item in found
            ],
            output,
        )
