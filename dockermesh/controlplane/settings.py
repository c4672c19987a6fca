"""Settings of the control plane, read once and passed on explicitly."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockermesh.ca import LEAF_LIFETIME
from dockermesh.consul.settings import ConsulSettings
from dockermesh.errors import UsageError
from dockermesh.model import API_PORT, DEBUG_PORT, XDS_TLS_PORT
from dockermesh.model.contract import (
    CONTROL_PLANE_HOST,
    DEFAULT_TRUST_DOMAIN,
    LIMITER_PORT,
    STATE_PATH,
    TRUST_PATH,
)
from dockermesh.model.hosts import bracketed
from dockermesh.model.registries import DEFAULT_REGISTRY

API_AUTH = ("token", "none")
_CONSUL_DNS_PORT = 8600
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class ControlPlaneSettings:
    """How a control plane runs.

    `registry` is where services come from: `consul`, or `docker` (one host, nothing else needed).
    `registrar` runs this host's registrar in the same process (needs the Docker socket); with
    `run_checks` it asks the declared health checks itself, and with `explicit` it lists containers
    outside of the mesh only where SERVICE_NAME asks for it. `config` is a directory of Istio
    resources to take over at the start. `state_dir` keeps the CA and the API token; `trust_dir`
    gets the mesh root for proxies to mount, `telemetry_dir` what Prometheus needs to read metrics.
    `ca_dir` holds the user's own CA, as Istio's cacerts.
    `ca_passphrase_file` seals the mesh's own, in place of a key in the state directory: several
    control planes need the same one. `api_auth` is `token`, or `none`: then whoever reaches the
    config API may change the mesh. `leaf_lifetime` is how long a workload's certificate is good
    for; it is replaced at half of that. Addresses are `host:port`; port 0 takes a free one.
    `xds_plaintext` is empty (off) or an address on loopback. At `dns`, unless it is empty, pods'
    DNS queries are answered; `consul_dns` is where Consul's DNS is. At `limiter` proxies ask
    whether a limit that they count together is reached; `limiter_name` is where they find it, if
    not at that port of the control plane. It counts in memory, or in the Redis of the URL
    `limiter_redis`. At `spans`, unless it is empty, proxies' spans are taken;
    `spans_to` is the URL of a Zipkin that gets them as well.
    """

    registry: str = "consul"
    registrar: bool = False
    run_checks: bool = False
    explicit: bool = False
    consul: ConsulSettings = field(default_factory=ConsulSettings)
    config: Path | None = None
    state_dir: Path = Path(STATE_PATH)
    trust_dir: Path = Path(TRUST_PATH)
    telemetry_dir: Path | None = None
    ca_dir: Path | None = None
    ca_passphrase_file: Path | None = None
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    xds: str = f"0.0.0.0:{XDS_TLS_PORT}"
    xds_plaintext: str = ""
    limiter: str = f"0.0.0.0:{LIMITER_PORT}"
    limiter_name: str = ""
    limiter_redis: str = ""
    dns: str = ""
    consul_dns: str = ""
    spans: str = ""
    spans_to: str = ""
    api_auth: str = "token"
    api: str = f"127.0.0.1:{API_PORT}"
    debug: str = f"127.0.0.1:{DEBUG_PORT}"
    leaf_lifetime: datetime.timedelta = LEAF_LIFETIME
    server_names: tuple[str, ...] = (CONTROL_PLANE_HOST, "localhost")
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def service_domain(self) -> str:
        """What the host names of services end with, whatever the registry."""
        return f"service.{self.consul.domain}"

    @property
    def limiter_of_proxies(self) -> str:
        """Where proxies find the limiter."""
        port = self.limiter.rpartition(":")[2]
        return self.limiter_name or f"{CONTROL_PLANE_HOST}:{port}"

    @property
    def spans_port(self) -> int:
        """The port at which spans are taken; 0 if they are not."""
        return int(self.spans.rpartition(":")[2]) if self.spans else 0

    @property
    def consul_dns_address(self) -> str:
        """Where Consul answers DNS: beside its HTTP API if it is not said; empty without Consul."""
        if self.registry != DEFAULT_REGISTRY:
            return ""
        host = bracketed(self.consul.host)
        return self.consul_dns or f"{host}:{_CONSUL_DNS_PORT}"

    def __post_init__(self) -> None:
        # Neither is guessed: a typing error must not open the API.
        if self.api_auth not in API_AUTH:
            raise UsageError(
                f"unknown API authentication {self.api_auth!r}",
                fix=f"use one of: {', '.join(API_AUTH)}",
            )
        # Whoever reaches this port is given any proxy's config.
        host = self.xds_plaintext.rpartition(":")[0].strip("[]")
        if self.xds_plaintext and host not in {"127.0.0.1", "localhost", "::1"}:
            raise UsageError(
                f"xDS without TLS would listen on {host}, where others can reach it",
                fix="use 127.0.0.1, or the TLS port 15012",
            )


def parse_lifetime(text: str) -> datetime.timedelta:
    """A lifetime of certificates: `30s`, `90m`, `24h` or `7d`.

    Raises UsageError when it is none, or not between 2 seconds and 90 days (Istio's bound).
    """
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhd])", text.strip())
    lifetime = (
        datetime.timedelta(seconds=int(found[1]) * _UNITS[found[2]])
        if found
        else datetime.timedelta()
    )
    if not datetime.timedelta(seconds=2) <= lifetime <= datetime.timedelta(days=90):
        raise UsageError(
            f"{text!r} is no lifetime for certificates",
            fix="write 2s to 90d, for example 24h",
        )

    return lifetime
