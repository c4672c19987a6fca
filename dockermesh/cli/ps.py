"""`dockermesh ps`: workloads with their containers, endpoint health and xDS state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from dockermesh.cli.colours import styled
from dockermesh.cli.options import output_option, verbose_option
from dockermesh.cli.tables import print_data

if TYPE_CHECKING:
    from dockermesh.docker.engine import LocalEngine

_KINDS = {"router": "gateway", "node": "host"}
"""What the kinds of proxies are called here; a workload in node mode is called `node`."""
_COLOURS = {
    "SYNCED": "green",
    "healthy": "green",
    "STALE": "yellow",
    "NOT SENT": "yellow",
    "draining": "yellow",
    "starting": "yellow",
}
_BAD = frozenset({"NACKED", "NOT CONNECTED", "unhealthy", "none", "dead", "restarting"})


@click.command()
@click.option("-p", "--project-name", metavar="NAME", help="Only this Compose project.")
@output_option("table", "wide", "json", "yaml", "name")
@verbose_option
def command(project_name: str | None, output: str) -> None:
    """List workloads with container, endpoint health and xDS state."""
    from dockermesh.client.compose.container_health import with_container_health
    from dockermesh.client.compose.kept_proxies import running_on_kept
    from dockermesh.client.compose.strayed import strayed
    from dockermesh.client.mesh.local_certificates import away_warning
    from dockermesh.client.mesh.mesh_client import MeshClient
    from dockermesh.docker.engine import LocalEngine
    from dockermesh.errors import NotReadyError
    from dockermesh.runtime.timeline import span

    engine = LocalEngine()
    try:
        with span("control plane asked"):
            report = MeshClient(engine).workloads()
    except NotReadyError:
        for warning in filter(None, (away_warning(engine), running_on_kept(engine))):
            click.echo(f"warning: {warning}", err=True)
        _tell_elsewhere(engine, project_name)
        raise

    workloads = [w for w in report["workloads"] if project_name in {None, w["project"]}]
    if not workloads:
        _tell_elsewhere(engine, project_name)

    _print(with_container_health(engine, workloads), output)
    said = (
        report["degraded"],
        *report.get("config", ()),
        *report.get("warnings", ()),
        *report.get("host", ()),
        *report.get("metrics", ()),
        *(refusal["sentence"] for refusal in report.get("refused", ())),
    )
    said = (*strayed(engine, project_name or ""), *said)
    # A Consul that is away is told by each of its followers, in the same words.
    for warning in filter(None, dict.fromkeys(said)):
        click.echo(f"warning: {warning}", err=True)


def _print(workloads: Sequence[Mapping[str, Any]], output: str) -> None:
    if output in {"json", "yaml"}:
        print_data(workloads, output, indent=2)
    elif output == "name":
        for workload in workloads:
            click.echo(workload["name"])
    else:
        print_table(workloads, wide=output == "wide")


def _tell_elsewhere(engine: LocalEngine, project: str | None) -> None:
    from dockermesh.client.compose.engine_record import (
        elsewhere,
        record_of,
        state_home,
    )

    for other in elsewhere(state_home(), record_of(engine, project or "")):
        line = (
            f"{other.project} was brought up on {other.url}, this is {engine.address}"
        )
        click.echo(f"note: {line}\n  -> {other.how('ps')}", err=True)


def print_table(workloads: Sequence[Mapping[str, Any]], *, wide: bool = False) -> None:
    """Print workloads in aligned columns, coloured on a terminal; what a proxy refused goes to
    stderr.
    """
    head = ["WORKLOAD", "KIND", "SERVICE", "ADDRESS", "CONTAINER", "HEALTH", "XDS"]
    rows = [_row(w) for w in workloads]
    if wide:
        head += ["HOST", "ACCOUNT", "VERSION", "PROXY", "CERTIFICATE UNTIL", "PORTS"]
        rows = [row + _wide(w) for row, w in zip(rows, workloads, strict=True)]

    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    click.echo(
        "  ".join(
            f"{text:<{width}}" for text, width in zip(head, widths, strict=True)
        ).rstrip()
    )
    for row in rows:
        cells = [
            _coloured(text, width) for text, width in zip(row, widths, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())

    for line in _refusals(workloads):
        click.echo(line, err=True)


def _refusals(workloads: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for workload in workloads:
        types = (workload["proxy"] or {}).get("types") or {}
        for name, state in types.items():
            if state.get("error"):
                yield f"{workload['name']} refused {name}: {state['error']}"


def _wide(workload: Mapping[str, Any]) -> list[str]:
    certificate = workload.get("certificate") or {}
    version = workload["labels"].get("version", "-")
    proxy = workload["proxy_container"][:12] or "-"
    return [
        workload["host"],
        workload["service_account"],
        version,
        proxy,
        certificate.get("expires", "-"),
        _ports(workload["ports"]),
    ]


def _ports(ports: Sequence[Mapping[str, Any]]) -> str:
    """Each port with what is spoken there and what told so: `5432/tcp (image)`."""
    spoken = {
        p["port"]: f"{p['port']}/{p['protocol']}"
        + (f" ({p['protocol_rule']})" if p.get("protocol_rule") else "")
        for p in ports
    }
    return ", ".join(spoken[number] for number in sorted(spoken)) or "-"


def _row(workload: Mapping[str, Any]) -> list[str]:
    kind = _KINDS.get(workload["kind"], workload["kind"])
    if kind == "sidecar":
        kind = workload.get("mode", kind)
    container = (workload["app_container"] or workload["proxy_container"])[:12] or "-"
    service = "-" if kind == "gateway" else workload["service"] or "-"
    return [
        workload["name"],
        kind,
        service,
        workload["address"] or "-",
        container,
        workload["health"],
        workload["xds"],
    ]


def _coloured(text: str, width: int) -> str:
    # Before it is coloured: a colour's escapes would count as width.
    padded = f"{text:<{width}}"
    is_bad = text in _BAD or (text.startswith("exited") and text != "exited (0)")
    colour = _COLOURS.get(text) or ("red" if is_bad else None)
    return styled(padded, fg=colour) if colour else padded
