"""Health checks of services: registrator's `SERVICE_CHECK_*`, and what Docker itself knows of the
container.

Source: registrator, `consul/consul.go` (buildCheck); Consul's agent/check/register.
Invariant: the first kind of check that is given wins, in registrator's order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dockermesh.model.hosts import bracketed
from dockermesh.registrar.container import Container
from dockermesh.registrar.metadata import Metadata

DEFAULT_INTERVAL = "10s"
# How long the last known health stands without a registrar. Long, since a registrar that is being
# restarted must not take services down; a host that died is cleaned up by its lease instead.
DOCKER_TTL = "24h"

_SHELL = ("/bin/sh", "-c")
_CHECK_CMD = "check-cmd"
"""registrator's own script, beside its Consul, for commands in a container."""

Check = Mapping[str, str | bool | list[str]]


@dataclass(frozen=True, slots=True)
class Target:
    """What a check talks to."""

    address: str
    port: int
    exposed: str
    container: str

    @property
    def socket(self) -> str:
        """Address and port, IPv6 in brackets."""
        return socket(self.address, self.port)


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """What is known of an instance's health, as the status of a Consul check."""

    status: str
    output: str = ""


def socket(address: str, port: int) -> str:
    """Address and port, IPv6 in brackets."""
    return f"{bracketed(address)}:{port}"


def declared_check(meta: Metadata, target: Target) -> Check | None:
    """The check that the container's metadata asks for."""
    probe = _probe(meta, target)
    if probe is None:
        return None
    check: dict[str, str | bool | list[str]] = {}
    if meta.get("check_initial_status"):
        check["Status"] = meta.get("check_initial_status")
    check |= probe
    if "TTL" not in probe:
        check["Interval"] = meta.get("check_interval", DEFAULT_INTERVAL)
    if meta.get("check_deregister_after"):
        check["DeregisterCriticalServiceAfter"] = meta.get("check_deregister_after")
    return check


def can_be_asked(check: Check) -> bool:
    """Whether it is a question that the registrar can ask, of the network or in the container."""
    return not check.keys().isdisjoint(("HTTP", "TCP", "GRPC", "Args"))


def command_of(check: Check) -> list[str] | None:
    """What a check runs in the container; None if it asks the network."""
    found = check.get("Args")
    if not isinstance(found, list):
        return None
    return [*_SHELL, found[-1]] if found[0] == _CHECK_CMD else found


def all_of(
    docker: HealthStatus | None, own: Check | None, answer: HealthStatus | None
) -> HealthStatus | None:
    """Docker's verdict and the answer to a check in one: the worse one. Without an answer yet, the
    check's `Status`.
    """
    if own is None:
        return docker
    asked = answer or HealthStatus(
        str(own.get("Status") or "critical"), "not asked yet"
    )
    return asked if docker is None or docker.status == "passing" else docker


def _probe(meta: Metadata, target: Target) -> dict[str, str | bool | list[str]] | None:
    for scheme in ("http", "https"):
        if path := meta.get(f"check_{scheme}"):
            method = meta.get(f"check_{scheme}_method")
            url: dict[str, str | bool | list[str]] = {
                "HTTP": f"{scheme}://{target.socket}{path}"
            }
            return url | ({"Method": method} if method else {}) | timeout_of(meta)

    if command := meta.get("check_cmd"):
        name = target.container[:12]
        return {"Args": [_CHECK_CMD, name, target.exposed, command]}

    if script := meta.get("check_script"):
        filled = script.replace("$SERVICE_IP", target.address).replace(
            "$SERVICE_PORT", str(target.port)
        )
        # As Consul ran it, while it still took scripts.
        return {"Args": [*_SHELL, filled]}

    if ttl := meta.get("check_ttl"):
        return {"TTL": ttl}
    if meta.get("check_tcp"):
        return {"TCP": target.socket, **timeout_of(meta)}
    if meta.get("check_grpc"):
        return {"GRPC": target.socket, **_grpc_tls(meta), **timeout_of(meta)}
    return None


def timeout_of(meta: Metadata) -> dict[str, str]:
    """How long a check may take, if that is said. registrator passes it on for what asks the
    network.
    """
    timeout = meta.get("check_timeout")
    return {"Timeout": timeout} if timeout else {}


def _grpc_tls(meta: Metadata) -> dict[str, bool]:
    if not meta.get("check_grpc_use_tls"):
        return {}
    skip = {"TLSSkipVerify": True} if meta.get("check_tls_skip_verify") else {}
    return {"GRPCUseTLS": True, **skip}


def docker_health(container: Container, pod: Container | None) -> HealthStatus | None:
    """Docker's verdict on a container in its pod; None when it has no opinion.

    A pod counts only once Docker calls it unhealthy: while it starts, its app has not been started
    yet.
    """
    state = container.state
    if state.paused or (pod is not None and pod.state.paused):
        return HealthStatus("critical", "paused")
    if pod is not None and pod.state.health == "unhealthy":
        return HealthStatus(
            "critical", f"the pod is unhealthy: {pod.state.health_output}".strip(": \n")
        )
    if not state.health:
        return None
    return HealthStatus(
        "passing" if state.health == "healthy" else "critical", state.health
    )


def docker_check(service_id: str, health: HealthStatus) -> Check:
    """The check through which the registrar reports Docker's verdict."""
    return {
        "CheckID": check_id(service_id),
        "Name": "Docker health",
        "TTL": DOCKER_TTL,
        "Status": health.status,
        "Notes": "set by dockermesh from the container's state and checks",
    }


def check_id(service_id: str) -> str:
    """The id of the Docker check of a service."""
    return f"dockermesh:{service_id}"
