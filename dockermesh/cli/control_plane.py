"""`dockermesh control-plane`: run the control plane in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from dockermesh.model.contract import (
    API_PORT,
    DEBUG_PORT,
    DEFAULT_TRUST_DOMAIN,
    ENV_API_ADDRESS,
    ENV_API_AUTH,
    ENV_CA_DIR,
    ENV_CA_PASSPHRASE_FILE,
    ENV_CONFIG_DIR,
    ENV_DEBUG_ADDRESS,
    ENV_LEAF_LIFETIME,
    ENV_REGISTRAR,
    ENV_REGISTRY,
    ENV_RUN_CHECKS,
    ENV_STATE_DIR,
    ENV_TRUST_DIR,
    ENV_TRUST_DOMAIN,
    STATE_PATH,
    TRUST_PATH,
    XDS_PLAINTEXT_PORT,
    XDS_TLS_PORT,
)
from dockermesh.model.registries import DEFAULT_REGISTRY, SERVERS


@click.command()
@click.option(
    "--registry",
    type=click.Choice([*SERVERS]),
    envvar=ENV_REGISTRY,
    show_envvar=True,
    default=DEFAULT_REGISTRY,
    show_default=True,
    help="Where services come from.",
)
@click.option(
    "--registrar/--no-registrar",
    default=None,
    envvar=ENV_REGISTRAR,
    show_envvar=True,
    help="Also run this host's registrar [default: when the Docker socket is there].",
)
@click.option(
    "--run-checks",
    is_flag=True,
    envvar=ENV_RUN_CHECKS,
    show_envvar=True,
    help=(
        "The registrar asks the declared HTTP, TCP and gRPC checks itself, for a Consul that cannot"
        " reach the pods."
    ),
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar=ENV_CONFIG_DIR,
    show_envvar=True,
    help="Directory of Istio resources, taken over at the start.",
)
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path),
    default=Path(STATE_PATH),
    show_default=True,
    envvar=ENV_STATE_DIR,
    show_envvar=True,
    help="Keeps the CA's key and the API token; mode 0700.",
)
@click.option(
    "--trust-dir",
    type=click.Path(path_type=Path),
    default=Path(TRUST_PATH),
    show_default=True,
    envvar=ENV_TRUST_DIR,
    show_envvar=True,
    help="Gets root.pem, the mesh root that proxies verify.",
)
@click.option(
    "--trust-domain",
    default=DEFAULT_TRUST_DOMAIN,
    show_default=True,
    envvar=ENV_TRUST_DOMAIN,
    show_envvar=True,
    help="First part of every identity.",
)
@click.option(
    "--ca-dir",
    type=click.Path(path_type=Path),
    envvar=ENV_CA_DIR,
    show_envvar=True,
    help=(
        "A CA of your own: ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem, as Istio's"
        " cacerts."
    ),
)
@click.option(
    "--ca-passphrase-file",
    type=click.Path(path_type=Path),
    envvar=ENV_CA_PASSPHRASE_FILE,
    show_envvar=True,
    help=(
        "Seals the mesh's CA in Consul; several control planes need the same [a key in the state"
        " directory]."
    ),
)
@click.option(
    "--xds-address",
    default=f"0.0.0.0:{XDS_TLS_PORT}",
    show_default=True,
    help="xDS over TLS.",
)
@click.option(
    "--xds-plaintext",
    "plaintext",
    is_flag=False,
    flag_value=f"127.0.0.1:{XDS_PLAINTEXT_PORT}",
    default="",
    help=(
        f"Also serve xDS without TLS and tokens, on loopback only [127.0.0.1:{XDS_PLAINTEXT_PORT}]."
    ),
)
@click.option(
    "--api-address",
    default=f"127.0.0.1:{API_PORT}",
    show_default=True,
    envvar=ENV_API_ADDRESS,
    show_envvar=True,
    help="Config API.",
)
@click.option(
    "--api-auth",
    type=click.Choice(["token", "none"]),
    default="token",
    show_default=True,
    envvar=ENV_API_AUTH,
    show_envvar=True,
    help=(
        "Who may use the config API: holders of the bearer token, or all who reach it, containers"
        " of the mesh too."
    ),
)
@click.option(
    "--debug-address",
    default=f"127.0.0.1:{DEBUG_PORT}",
    show_default=True,
    envvar=ENV_DEBUG_ADDRESS,
    show_envvar=True,
    help="Health, metrics and debug pages.",
)
@click.option(
    "--leaf-lifetime",
    default="24h",
    show_default=True,
    envvar=ENV_LEAF_LIFETIME,
    show_envvar=True,
    help=(
        "How long workloads' certificates are good for; they are replaced at half of it (30s, 90m,"
        " 24h)."
    ),
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Of its log.",
)
def command(
    registry: str,
    registrar: bool | None,
    run_checks: bool,
    config: Path | None,
    state_dir: Path,
    trust_dir: Path,
    trust_domain: str,
    ca_dir: Path | None,
    ca_passphrase_file: Path | None,
    xds_address: str,
    plaintext: str,
    api_address: str,
    api_auth: str,
    debug_address: str,
    leaf_lifetime: str,
    log_format: str,
) -> None:
    """Run the control plane: bridge, translation, xDS, CA and config API.

    Consul is found by the CONSUL_HTTP_* variables that all Consul tools honour. Stop it with
    SIGTERM; proxies keep their configuration and come back by themselves.
    """
    import os

    from dockermesh.consul.settings import ConsulSettings
    from dockermesh.controlplane.control_plane import run
    from dockermesh.controlplane.open_files import allow_many_open_files
    from dockermesh.controlplane.settings import ControlPlaneSettings, parse_lifetime
    from dockermesh.registrar.start import socket_problem
    from dockermesh.runtime.daemon import configure_logging

    configure_logging(log_format)
    allow_many_open_files()
    run(
        ControlPlaneSettings(
            registry=registry,
            registrar=not socket_problem() if registrar is None else registrar,
            run_checks=run_checks,
            consul=ConsulSettings.from_environment(os.environ),
            config=config,
            state_dir=state_dir,
            trust_dir=trust_dir,
            trust_domain=trust_domain,
            ca_dir=ca_dir,
            ca_passphrase_file=ca_passphrase_file,
            xds=xds_address,
            xds_plaintext=plaintext,
            api=api_address,
            api_auth=api_auth,
            debug=debug_address,
            leaf_lifetime=parse_lifetime(leaf_lifetime),
            environment=dict(os.environ),
        )
    )
