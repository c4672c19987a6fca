"""The cluster of the limiter, which is a part of the control plane and takes certificates of the
mesh alone.
"""

from __future__ import annotations

from envoy.config.cluster.v3 import cluster_pb2

from dockermesh.model.contract import CONTROL_PLANE_HOST
from dockermesh.translate.clusters.circuit_breaking import thresholds
from dockermesh.translate.clusters.cluster import dns_cluster
from dockermesh.translate.clusters.protocol import OPTIONS_KEY, http2_options
from dockermesh.translate.envoy import names
from dockermesh.translate.envoy.packing import seconds
from dockermesh.translate.mesh.settings import MeshSettings
from dockermesh.translate.tls import mesh_tls

_CONNECT_S = 1.0


def limiter_cluster(
    settings: MeshSettings,
    name: str = names.LIMITER_CLUSTER,
    asked: str = CONTROL_PLANE_HOST,
) -> cluster_pb2.Cluster:
    """How proxies reach the limiter; `asked` is by what name, which tells it whose limits count."""
    host, _, port = settings.limiter.rpartition(":")
    cluster = dns_cluster(name, host.strip("[]"), int(port))
    cluster.dns_lookup_family = cluster_pb2.Cluster.V4_PREFERRED
    cluster.connect_timeout.CopyFrom(seconds(_CONNECT_S))
    cluster.circuit_breakers.CopyFrom(thresholds())
    cluster.typed_extension_protocol_options[OPTIONS_KEY].CopyFrom(http2_options())
    cluster.transport_socket.CopyFrom(
        mesh_tls.client_socket(asked, mesh_tls.named([CONTROL_PLANE_HOST]), http2=True)
    )
    return cluster
