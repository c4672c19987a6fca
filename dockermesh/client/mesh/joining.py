"""A process outside Docker as a workload: it is announced to the mesh, and gets the files for an
Envoy beside it.

Invariants: the token that its proxy will show is made here and never leaves but in a file of mode
0600; the control plane is told its digest. Nothing on the machine is changed but the files in one
folder: capture rules are written, and put in force by the user.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import Any

from dockermesh.ca import write_private
from dockermesh.client.compose.mesh_files import pod_file
from dockermesh.client.mesh.api_client import ApiClient, Endpoint
from dockermesh.docker.engine import LocalEngine
from dockermesh.errors import InputError, UsageError
from dockermesh.inject.capture import MachineOptions, capture_config, render_capture
from dockermesh.model import DNS_PORT, XDS_TLS_PORT
from dockermesh.model.canonical import service_of, told_of_itself
from dockermesh.model.contract import (
    CLUSTER_DOMAIN,
    CONTROL_PLANE_CONTAINER,
    MESH_NETWORK,
    PROXY_UID,
    consul_domain_of,
)
from dockermesh.translate.mesh.vips import VIP_RANGE

_RESOLV_CONF = Path("/etc/resolv.conf")
# The rules for DNS are in no chain of their own.
_RELEASE = f"iptables-save | grep -vE 'ISTIO_|--to-ports {DNS_PORT}' | iptables-restore"
_AS_PROXY = f"setpriv --reuid {PROXY_UID} --regid {PROXY_UID} --clear-groups"
_NO_DNS = "join without --dns"
_NO_ROUTE = "give the IPv4 address at which the mesh reaches this host: --address"


@dataclass(frozen=True, slots=True)
class Join:
    """What is to join: the ports that the process serves with their protocols, and where it and the
    mesh are.

    With `dns`, what this machine asks its name servers goes to one beside the proxy that knows the
    mesh's names.
    """

    ports: Mapping[int, str]
    folder: Path
    control_plane: str
    address: str = ""
    dns: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """What came of it: the workload's name, the commands that start its proxy, and those that undo
    it once it ended.
    """

    workload: str
    address: str
    commands: tuple[str, ...]
    leaving: tuple[str, ...]


def join(endpoint: Endpoint, token: str, what: Join) -> Joined:
    """Announce the process with a join token, and write its proxy's files.

    Raises ApiError, NotReadyError, UsageError, InputError.
    """
    address = what.address or _own_address(what.control_plane)
    if _is_ipv6(address):
        raise UsageError(
            f"{address} is IPv6, and the proxy takes connections over IPv4",
            fix=_NO_ROUTE,
        )
    own = secrets.token_hex(32)
    asked = {
        "token_sha256": hashlib.sha256(own.encode()).hexdigest(),
        "address": address,
        "ports": {str(port): protocol for port, protocol in what.ports.items()},
    }
    servers = _name_servers() if what.dns else ()
    _prepare(what.folder)
    client = ApiClient(replace(endpoint, token=token))
    answer: dict[str, Any] = client.request("POST", "/mesh/join", document=asked).body
    _write(what, answer, address, own)
    (what.folder / "capture.rules").write_text(_rules(what.ports, address, servers))
    workload = answer["workload"]
    commands = _commands(what.folder, workload, str(answer["namespace"]))
    if servers:
        (what.folder / "dns").write_bytes(pod_file("dns", {}))
        commands = (*commands[:-1], _name_server(what, servers), commands[-1])

    return Joined(
        workload,
        address,
        commands,
        (_RELEASE, f"dockermesh token revoke {workload}"),
    )


def xds_address() -> str:
    """Where a process on this host reaches the control plane's xDS. Raises NotReadyError,
    UsageError.
    """
    found = LocalEngine().inspect(CONTROL_PLANE_CONTAINER) or {}
    networks = (found.get("NetworkSettings") or {}).get("Networks") or {}
    address = (networks.get(MESH_NETWORK) or {}).get("IPAddress") or next(
        (n["IPAddress"] for n in networks.values() if n.get("IPAddress")), ""
    )

    if not address:
        raise UsageError(
            "the control plane is not on this host",
            fix="say where its port 15012 is: --xds HOST:PORT",
        )

    return f"{address}:{XDS_TLS_PORT}"


def _own_address(control_plane: str) -> str:
    """The address from which this machine talks to the control plane."""
    host, _, port = control_plane.rpartition(":")
    if _is_ipv6(host.strip("[]")):
        raise UsageError(
            f"the way to {control_plane} is IPv6, and the proxy takes connections over IPv4",
            fix=_NO_ROUTE,
        )
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Sends nothing: a datagram socket only has the kernel choose the way, and so the
            # address.
            probe.connect((host.strip("[]"), int(port)))
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no way leads to {control_plane}: {error}", fix=_NO_ROUTE
        ) from error


def _is_ipv6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / "envoy.json").unlink(missing_ok=True)
    except OSError as error:
        reason = f"cannot be written: {error.strerror}"
        raise InputError(
            reason, where=str(folder), fix="name another with --dir"
        ) from error


def _write(what: Join, answer: Mapping[str, Any], address: str, own: str) -> None:
    workload, namespace = str(answer["workload"]), str(answer["namespace"])
    host, _, port = what.control_plane.rpartition(":")
    folder = what.folder.resolve()
    values = {
        "NODE_ID": f"sidecar~{address}~{workload}.{namespace}~{namespace}.{CLUSTER_DOMAIN}",
        "SERVICE": service_of(workload),
        "WORKLOAD": workload,
        "NAMESPACE": namespace,
        "CONTROL_PLANE_HOST": host.strip("[]"),
        "CONTROL_PLANE_PORT": port,
        "RUN": str(folder),
        "TRUST": str(folder),
        "TOKEN": own,
    }
    write_private(folder / "envoy.json", pod_file("bootstrap.json", values))
    (folder / "trust.json").write_bytes(pod_file("trust.json", values))
    (folder / "root.pem").write_text(str(answer["roots"]))


def _name_servers() -> tuple[IPv4Address, ...]:
    """Those of this machine: IPv4 alone, as the proxy listens there alone."""
    found = []
    try:
        lines = _RESOLV_CONF.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            "the name servers cannot be read", where=str(_RESOLV_CONF), fix=_NO_DNS
        ) from error

    for words in map(str.split, lines):
        with contextlib.suppress(ValueError):
            if words[:1] == ["nameserver"] and words[1:]:
                found.append(IPv4Address(words[1]))

    if not found:
        raise InputError(
            "no name server has an IPv4 address", where=str(_RESOLV_CONF), fix=_NO_DNS
        )
    return tuple(found)


def _rules(
    ports: Mapping[int, str], address: str, name_servers: tuple[IPv4Address, ...]
) -> str:
    """Only what concerns the mesh: connections to this machine's served ports, and to the mesh's
    virtual addresses.
    """
    settings = {
        "InboundPortsInclude": ",".join(map(str, sorted(ports))),
        "OutboundIPRangesInclude": VIP_RANGE,
    }
    return render_capture(
        capture_config(settings), machine=MachineOptions(address, name_servers)
    )


def _name_server(what: Join, servers: tuple[IPv4Address, ...]) -> str:
    """The command that starts the name server; it asks the machine's own what it does not know."""
    control_plane = what.control_plane.rpartition(":")[0]
    domain = consul_domain_of(os.environ)
    own = " ".join(map(str, servers))
    return (
        f"{_AS_PROXY} perl {what.folder.resolve()}/dns {control_plane} {domain} {own} &"
    )


def _commands(folder: Path, workload: str, namespace: str) -> tuple[str, ...]:
    where = folder.resolve()
    told = told_of_itself(workload, namespace, {})
    environment = " ".join(f"{name}={value}" for name, value in told.items())
    return (
        f"chown -R 1337:1337 {where}",
        f"iptables-restore --noflush < {where}/capture.rules",
        f"{_AS_PROXY} env {environment} envoy -c {where}/envoy.json",
    )
