"""`dockermesh ca`: the mesh's certificate authority: its state, its roots, and the rotation of its
root.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import click

from dockermesh.cli.options import output_option


@click.group(name="ca")
def command() -> None:
    """Look at the mesh's certificate authority, and rotate its root."""


@command.command()
@output_option("text", "json")
def status(output: str) -> None:
    """Show roots, expiry, the phase of a rotation, leaves and warnings."""
    from dockermesh.client.mesh.mesh_trust import ca_status

    report = ca_status(_client())
    if output == "json":
        click.echo(json.dumps(report, indent=2))
        return

    for line in _lines(report):
        click.echo(line)
    for warning in report["warnings"]:
        click.echo(f"warning: {warning}", err=True)


@command.command()
def export() -> None:
    """Print all trusted roots in PEM."""
    from dockermesh.client.mesh.mesh_trust import ca_roots

    click.echo(ca_roots(_client()), nl=False)


@command.command()
@click.option(
    "--step",
    type=click.Choice(["prepare", "switch", "finish"]),
    help="Only this step [all that are left, each when it is safe].",
)
@click.option(
    "--force", is_flag=True, help="Take the step although connections may break."
)
@click.option(
    "--timeout",
    type=float,
    default=120.0,
    show_default=True,
    help="Seconds to wait for each step.",
)
def rotate(step: str | None, force: bool, timeout: float) -> None:
    """Replace the mesh's root, without a failed connection.

    prepare: a new root is trusted beside the old one. switch: it signs, and all certificates are
    replaced. finish: the old root is trusted no more.
    """
    from dockermesh.client.mesh.mesh_trust import rotate as take

    report = take(
        _client(),
        step or "",
        force=force,
        timeout=timeout,
        tell=lambda text: click.echo(text, err=True),
    )
    if report["phase"] == "stable":
        click.echo(
            "kubectl needs the new root, too: run `dockermesh kubeconfig` again",
            err=True,
        )


def _client() -> Any:
    import os

    from dockermesh.client.mesh.api_client import ApiClient, find_endpoint

    return ApiClient(find_endpoint(os.environ))


def _lines(report: Mapping[str, Any]) -> list[str]:
    leaves = report["leaves"]
    kind = "made by the mesh" if report["managed"] else "brought by you"
    lines = [
        f"CA of {report['trust_domain']}, {kind}; {report['phase']} since {report['since']}"
    ]

    for root in report["roots"]:
        use = "signs" if root["signing"] else "trusted"
        lines.append(
            f"root    {use:<8} until {root['not_after']}  {root['sha256'][:16]}  {root['subject']}"
        )

    if not report["managed"]:
        signer = report["signer"]
        lines.append(
            f"signer           until {signer['not_after']}  {signer['sha256'][:16]} "
            f" {signer['subject']}"
        )

    lines.append(
        f"leaves  {leaves['held']} held, {leaves['issued']} issued since the start,"
        f" {leaves['failures']} failures; next renewal {leaves['next_renewal'] or '-'}"
    )
    if leaves["of_old_signer"]:
        lines.append(f"        {leaves['of_old_signer']} of the old root")

    if report["phase"] != "stable":
        blocked = "; ".join(report["blocked"])
        lines.append(
            f"next    {report['next_step']}: {f'not safe yet: {blocked}' if blocked else 'safe'}"
        )

    return lines
