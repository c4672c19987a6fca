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
    ENV_CONSUL_DNS,
    ENV_DEBUG_ADDRESS,
    ENV_DNS_LISTEN,
    ENV_EXPLICIT,
    ENV_LEAF_LIFETIME,
    ENV_LIMITER_LISTEN,
    ENV_LIMITER_NAME,
    ENV_LIMITER_REDIS,
    ENV_REGISTRAR,
    ENV_REGISTRY,
    ENV_RUN_CHECKS,
    ENV_SPANS_LISTEN,
    ENV_SPANS_TO,
    ENV_STATE_DIR,
    ENV_TELEMETRY_DIR,
    ENV_TRUST_DIR,
    ENV_TRUST_DOMAIN,
    LIMITER_PORT,
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
    "--explicit",
    is_flag=True,
    envvar=ENV_EXPLICIT,
    show_envvar=True,
    help="Containers outside of the mesh are services only with a SERVICE_NAME.",
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
    "--telemetry-dir",
    envvar=ENV_TELEMETRY_DIR,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where Prometheus' certificate and token are written; none without it.",
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
    "--dns-address",
    default="",
    envvar=ENV_DNS_LISTEN,
    show_envvar=True,
    help="Where pods' DNS queries for Consul's names and for addresses are answered.",
)
@click.option(
    "--consul-dns",
    default="",
    envvar=ENV_CONSUL_DNS,
    show_envvar=True,
    help="Consul's DNS, HOST:PORT [port 8600 of the host of its HTTP API].",
)
@click.option(
    "--limiter-address",
    default=f"0.0.0.0:{LIMITER_PORT}",
    show_default=True,
    envvar=ENV_LIMITER_LISTEN,
    show_envvar=True,
    help="The limiter, which proxies ask about limits that they count together.",
)
@click.option(
    "--limiter-name",
    default="",
    envvar=ENV_LIMITER_NAME,
    show_envvar=True,
    help="Where proxies find it, HOST:PORT [that port of control-plane.dockermesh].",
)
@click.option(
    "--limiter-redis",
    default="",
    envvar=ENV_LIMITER_REDIS,
    show_envvar=True,
    help="URL of the Redis where several control planes count together [in memory].",
)
@click.option(
    "--spans-address",
    default="",
    envvar=ENV_SPANS_LISTEN,
    show_envvar=True,
    help="Where proxies' spans are taken, by mutual TLS.",
)
@click.option(
    "--spans-to",
    default="",
    envvar=ENV_SPANS_TO,
    show_envvar=True,
    metavar="URL",
    help="Who gets the spans as well: a Zipkin, or what takes spans like one.",
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
    explicit: bool,
    config: Path | None,
    state_dir: Path,
    trust_dir: Path,
    telemetry_dir: Path | None,
    trust_domain: str,
    ca_dir: Path | None,
    ca_passphrase_file: Path | None,
    xds_address: str,
    plaintext: str,
    api_address: str,
    api_auth: str,
    debug_address: str,
    dns_address: str,
    consul_dns: str,
    limiter_address: str,
    limiter_name: str,
    limiter_redis: str,
    spans_address: str,
    spans_to: str,
    leaf_lifetime: str,
    log_format: str,
) -> None:
    """Run the control plane: bridge, translation, xDS, CA and config API.

    Consul is found by the CONSUL_HTTP_* variables that all Consul tools honour. Stop it with
    SIGTERM; proxies keep their configuration and come back by themselves.
    """
    import os

    from dockermesh.consul.settings import ConsulSettings
    from dockermesh.controlplane.open_files import allow_many_open_files
    from dockermesh.controlplane.process import run
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
            explicit=explicit,
            consul=ConsulSettings.from_environment(os.environ),
            config=config,
            state_dir=state_dir,
            trust_dir=trust_dir,
            telemetry_dir=telemetry_dir,
            trust_domain=trust_domain,
            ca_dir=ca_dir,
            ca_passphrase_file=ca_passphrase_file,
            xds=xds_address,
            xds_plaintext=plaintext,
            api=api_address,
            api_auth=api_auth,
            debug=debug_address,
            dns=dns_address,
            consul_dns=consul_dns,
            limiter=limiter_address,
            limiter_name=limiter_name,
            limiter_redis=limiter_redis,
            spans=spans_address,
            spans_to=spans_to,
            leaf_lifetime=parse_lifetime(leaf_lifetime),
            environment=dict(os.environ),
        )
    )
