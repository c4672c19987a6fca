"""Whether what a Gateway opens can be reached: its gateway's host must publish the port.

Invariant: a gateway that publishes nothing, such as one for calls out of the mesh, is judged by
nobody: it is reached inside the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dockermesh.config.api.gateway import Gateway
from dockermesh.config.resource import Resource
from dockermesh.model import Workload, WorkloadKind
from dockermesh.translate.mesh.findings import Reason, ResourceFinding
from dockermesh.translate.mesh.visibility import selects

_Forwarded = Mapping[tuple[str, str], Mapping[int, int]]
"""By namespace and address of a workload: where ServiceEntries forward ports to."""


def unpublished(
    resource: Resource[Gateway], workloads: Iterable[Workload], forwarded: _Forwarded
) -> Iterator[ResourceFinding]:
    """The servers of a Gateway whose port no gateway that it selects publishes."""
    serving = [
        w
        for w in workloads
        if w.kind is WorkloadKind.GATEWAY
        and w.published
        and selects(resource.spec.selector, w.labels)
    ]
    for position, server in enumerate(resource.spec.servers if serving else ()):
        # One that is bound to an address of its own was never meant for the host's port.
        if server.port is None or server.bind:
            continue
        number = server.port.number
        if not any(_publishes(w, number, forwarded) for w in serving):
            names = ", ".join(sorted(w.name for w in serving))
            yield ResourceFinding(
                str(resource),
                Reason.PORT_UNAVAILABLE,
                f"spec.servers[{position}].port: {number} is published nowhere: {names} has it,"
                " but no port of the host leads there; dockermesh up opens it with --config FILE"
                " and this resource in the file",
            )


def _publishes(workload: Workload, number: int, forwarded: _Forwarded) -> bool:
    targets = forwarded.get((workload.namespace, workload.address), {})
    return targets.get(number, number) in workload.published
