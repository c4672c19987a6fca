"""What translation is told of a proxy: of an attested one by its workload's record, of others what
they say. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dockermesh.model import ProxyMode, Workload, WorkloadKind
from dockermesh.translate.mesh.state import MeshState, Proxy

if TYPE_CHECKING:
    # Offline commands look proxies up, too, and do not wait for gRPC.
    from dockermesh.xds import NodeInfo


def proxy_of(workload: Workload, metadata: Mapping[str, Any]) -> Proxy:
    """The proxy of an attested workload; `metadata` is what its node says of itself."""
    return Proxy(
        id=workload.name,
        kind=workload.kind,
        namespace=workload.namespace,
        address=workload.address,
        labels=workload.labels,
        workload=workload,
        metadata=metadata,
    )


def workloads_at(node: Proxy, mesh: MeshState) -> list[Workload]:
    """The workloads that a node's proxy serves: those that its own host's registrar attested."""
    own = node.workload
    if own is None or own.kind is not WorkloadKind.NODE or not own.host:
        return []
    return [
        workload
        for workload in mesh.workloads.values()
        if workload.mode is ProxyMode.NODE and workload.host == own.host
    ]


def anonymous_proxy(node: NodeInfo) -> Proxy:
    """A proxy on the plaintext port: what its node id says is believed, for nobody else reaches
    that port.
    """
    parts = node.id.split("~")
    # Not ours: another Envoy may well try the plaintext port.
    if len(parts) != 4:
        return Proxy(id=node.id, has_certificate=False)

    kind = (
        WorkloadKind.GATEWAY
        if parts[0] == WorkloadKind.GATEWAY
        else WorkloadKind.SIDECAR
    )
    labels = node.metadata.get("LABELS")

    return Proxy(
        id=node.id,
        kind=kind,
        address=parts[1],
        labels=labels if isinstance(labels, dict) else {},
        metadata=node.metadata,
        has_certificate=False,
    )
