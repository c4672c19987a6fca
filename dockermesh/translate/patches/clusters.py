"""Patches of clusters.

Source: Istio `pilot/pkg/networking/core/envoyfilter/cluster_patch.go`, whose order this keeps.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2

from dockermesh.config.api.envoy_filter import PatchOperation
from dockermesh.translate.clusters.limiter import limiter_cluster
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.patches.compiling import CompiledPatch
from dockermesh.translate.patches.merging import merge, merge_extension


def patch_cluster(
    cluster: Any,
    patches: Sequence[CompiledPatch],
    hosts: tuple[str, ...],
    names: Mapping[str, str],
) -> bool:
    """Apply the patches, all of the cluster's context. Returns whether the cluster stays.

    `hosts` are the services that a sidecar serves: those of its inbound clusters, whose names have
    none. `names` lead from every name of a service to its hostname.
    """
    for patch in patches:
        if not _matches(cluster, patch, hosts, names):
            continue
        if patch.operation is PatchOperation.REMOVE:
            return False

        if patch.merges and not _merge_transport_socket(cluster, patch.value):
            merge(cluster, patch.value, replaces_lists=patch.replaces_lists)

    return True


def towards_limiter(
    cluster: Any, called: Collection[str], settings: MeshSettings
) -> Any:
    """A cluster that a patch adds; where it calls the limiter by a name that no DNS server knows,
    it goes there, with the certificates that this takes.
    """
    for name in called:
        addresses = [
            lb.endpoint.address.socket_address.address
            for group in cluster.load_assignment.endpoints
            for lb in group.lb_endpoints
        ]
        if addresses and all(address == name for address in addresses):
            made = cluster_pb2.Cluster.FromString(cluster.SerializeToString())
            known = limiter_cluster(settings, cluster.name, name)
            made.type = known.type
            made.load_assignment.CopyFrom(known.load_assignment)
            made.transport_socket.CopyFrom(known.transport_socket)
            return made
    return cluster


def _matches(
    cluster: Any, patch: CompiledPatch, hosts: tuple[str, ...], names: Mapping[str, str]
) -> bool:
    wanted = patch.match.cluster
    if wanted is None:
        return True
    if wanted.name:
        return bool(wanted.name == cluster.name)

    # BlackHoleCluster and its like have none of these, and match no condition on them.
    direction, port, subset, host = (*cluster.name.split("|", 3), "", "", "", "")[:4]
    if wanted.subset and wanted.subset != subset:
        return False
    if wanted.port_number and str(wanted.port_number) != port:
        return False

    served = hosts if direction == "inbound" and hosts else (host,)
    return not wanted.service or _is_served(wanted.service.lower(), served, names)


def _is_served(service: str, served: Collection[str], names: Mapping[str, str]) -> bool:
    """Whether a service is one of these, by its hostname or by any other of its names."""
    return service in served or names.get(service) in served


def _merge_transport_socket(cluster: Any, patch: Any) -> bool:
    """Merge a patch that has a transport socket. Returns whether it did: then nothing else of the
    patch applies.
    """
    if not patch.HasField("transport_socket"):
        return False
    socket = None

    if cluster.transport_socket_matches:
        # Clusters of the mesh choose by endpoint: mutual TLS, or none.
        choices = (m.transport_socket for m in cluster.transport_socket_matches)
        socket = next(
            (s for s in choices if s.name == patch.transport_socket.name), None
        )
        if socket is None:
            # A cluster must not have both a socket and a choice of sockets.
            return True
    elif (
        cluster.HasField("transport_socket")
        and cluster.transport_socket.name == patch.transport_socket.name
    ):
        socket = cluster.transport_socket

    if socket is None:
        cluster.transport_socket.CopyFrom(patch.transport_socket)
    else:
        merge_extension(socket, patch.transport_socket)

    return True
