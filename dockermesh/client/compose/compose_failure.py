"""What Compose's last words mean to the user: the telling lines, and the next step."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dockermesh.client.compose.mesh_ports import MESH_PORTS
from dockermesh.model.contract import CONSUL_CONTAINER, CONTROL_PLANE_CONTAINER

_LINES = 5


def reason(stderr: str, status: int) -> str:
    """The lines that tell what went wrong."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    # `Error` as well as `error`: the engine and Compose write either.
    telling = [
        line for line in lines if "rror" in line or "ailed" in line or "denied" in line
    ]
    return "\n".join((telling or lines)[-_LINES:]) or f"exit status {status}"


def remedy(stderr: str, env: Mapping[str, str]) -> str:
    """The next step."""
    text = stderr.lower()
    if (
        "pull access denied" in text
        or "failed to resolve" in text
        or "dial tcp" in text
        or "no such host" in text
    ):
        return (
            "the image can't be had: build it, correct its name, log in to its registry, or check"
            " the network"
        )

    if "has active endpoints" in text:
        return (
            "a container of somebody else's is in this network, see `docker network inspect`: take"
            " it off (`docker network disconnect`), then `dockermesh down` again"
        )

    if "port is already allocated" in text or "address already in use" in text:
        return _port_remedy(text, env)
    return "`dockermesh down` removes what was started; `docker compose` logs tell more"


def _port_remedy(text: str, env: Mapping[str, str]) -> str:
    """Which setting moves the port: one of the mesh's own, or of the app's gateway."""
    found = re.search(r"(?:listen \w+ |bind for )\S*:(\d+)", text)
    port = found[1] if found else ""

    if CONSUL_CONTAINER in text or CONTROL_PLANE_CONTAINER in text:
        for known in MESH_PORTS:
            if port == known.number(env):
                variable = known.variable
                return f"free port {port} of the host's loopback, or set {variable} to another"

        if port == "53":
            return (
                "free the port, or set DOCKER_GATEWAY=127.0.0.1:100, which puts Consul's DNS on"
                " 127.0.0.1:10053"
            )

    return "free the port, or choose another with --gateway-port PUBLISHED:PORT"
