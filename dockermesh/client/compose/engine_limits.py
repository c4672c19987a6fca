"""What of the mesh is different, or does not work, on a kind of engine: said before it is found
out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.docker.address import EngineAddress


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit in one sentence, and what can be done about it."""

    kind: str
    what: str
    fix: str


_DNS = "DOCKER_GATEWAY=127.0.0.1: keeps Consul's DNS on loopback; or use `--registry docker`"
_SOURCES = (
    "clients outside of the engine appear at the gateway with an address of the engine's own, so"
    " rules on their addresses (ipBlocks, remoteIpBlocks) cannot tell them apart"
)
_ADDRESSES = (
    "no address of a container or of the mesh network is reached from this machine"
)

LIMITS: Mapping[str, tuple[Limit, ...]] = {
    "rootless": (
        Limit(
            "rootless",
            "pods need iptables in a user namespace, where no kernel module is loaded on demand",
            "`modprobe ip_tables iptable_nat nf_tables`, as root, on the engine's host",
        ),
        Limit(
            "rootless",
            "ports below 1024, Consul's DNS on 53 among them, and addresses that only the engine's"
            " namespace has are not published",
            f"sysctl net.ipv4.ip_unprivileged_port_start=53; {_DNS}",
        ),
        Limit(
            "rootless",
            _SOURCES,
            "let rootlesskit use pasta, which keeps addresses: Docker's page on rootless mode",
        ),
        Limit(
            "rootless",
            f"{_ADDRESSES}; network_mode: host is the engine's namespace, not this host",
            "use the published ports",
        ),
    ),
    "desktop": (
        Limit(
            "Docker Desktop",
            f"{_ADDRESSES}: the engine is in a virtual machine, whose kernel the checks here do not"
            " see",
            "use the published ports",
        ),
        Limit(
            "Docker Desktop",
            "ports are published on addresses of this machine only, so Consul's DNS is not on the"
            " mesh network's gateway",
            _DNS,
        ),
        Limit("Docker Desktop", _SOURCES, "identify callers by mutual TLS or tokens"),
        Limit(
            "Docker Desktop",
            "bind mounts, DOCKERMESH_CONFIG too, are of shared folders only, and network_mode: host"
            " is the virtual machine's",
            "share the folder: Settings, Resources, File sharing",
        ),
    ),
    "userns": (
        Limit(
            "userns-remap",
            "root of a container is a nobody on the host, and may not open the engine's socket: the"
            " registrar cannot start",
            "DOCKER_SOCK=/path of a filtering proxy's socket that this user may open, or no remap",
        ),
        Limit(
            "userns-remap",
            "files in bind mounts belong to other users than in the container",
            "let `dockremap` read what is mounted",
        ),
    ),
    "remote": (
        Limit(
            "another host",
            "bind mounts, DOCKERMESH_CONFIG and DOCKER_SOCK are paths of the engine's host, and"
            " ports are published there",
            "put what is mounted onto that host",
        ),
    ),
}


def limits_of(info: Mapping[str, Any], address: EngineAddress) -> tuple[Limit, ...]:
    """The limits of the engine that has this `GET /info` and is at this address."""
    options = {str(o).partition(",")[0] for o in info.get("SecurityOptions") or ()}
    kinds = {
        "rootless": "name=rootless" in options,
        "desktop": info.get("OperatingSystem") == "Docker Desktop",
        "userns": "name=userns" in options,
        "remote": address.is_remote,
    }
    return tuple(
        limit for kind, holds in kinds.items() if holds for limit in LIMITS[kind]
    )
