"""Gateways that ask for a port which leads nowhere from the host: what their status says of it."""

from __future__ import annotations

from collections.abc import Iterator

from dockermesh.client.mesh.api_client import path_of
from dockermesh.client.mesh.mesh_client import MeshClient
from dockermesh.kubeapi.served import named
from dockermesh.translate.mesh.findings import Reason


def unreachable_ports(client: MeshClient) -> Iterator[str]:
    """A sentence for each Gateway of the mesh with a port that is published nowhere."""
    served = named("gateway")
    for item in client.resources(path_of(served, "")) if served is not None else ():
        conditions = (item.get("status") or {}).get("conditions") or ()
        for condition in conditions:
            if condition.get("reason") == Reason.PORT_UNAVAILABLE.value:
                name = item["metadata"]["name"]
                namespace = item["metadata"]["namespace"]
                yield f"Gateway {namespace}/{name}: {condition.get('message')}"
