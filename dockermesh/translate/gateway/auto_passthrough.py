"""Servers in AUTO_PASSTHROUGH mode: mesh TLS is passed on, unopened, to the service that its server
name tells.

The name is the one that clients of the mesh send, `outbound_.9080_.v1_.reviews.service.consul`,
which is also the name of the gateway's cluster. Only connections that say they are the mesh's own
(by ALPN) are taken. Source: Istio `pilot/pkg/networking/core/gateway.go` and
`BuildDNSSrvSubsetKey`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2

from dockermesh.config.hosts import matches
from dockermesh.model import Resolution
from dockermesh.translate.clusters.cluster import ports_of, service_cluster
from dockermesh.translate.envoy import names
from dockermesh.translate.gateway.hosts import BoundServer
from dockermesh.translate.mesh.traffic_policy import effective_policy
from dockermesh.translate.routes.destinations import Destinations


def passed_services(where: Destinations, bound: BoundServer) -> Iterator[Any]:
    """A cluster for every port and subset of the services that the server's hosts cover; its name
    is the SNI.
    """
    for hostname in sorted(where.mesh.services):
        service = where.mesh.services[hostname]
        # The first leads to the address that was called, which is the gateway's own; the other
        # names no service.
        if service.resolution is Resolution.NONE or hostname.startswith("*"):
            continue
        patterns = bound.open_to(service.namespace)
        if not any(matches(pattern, hostname) for pattern in patterns):
            continue
        rule = where.index.rules.merged(
            where.index.rules.of(
                hostname, service.namespace, where.scope, service.shared
            )
        )

        for port in ports_of(service):
            for subset in (None, *rule.subsets):
                policy = replace(
                    effective_policy(rule, port.number, subset),
                    # The client's proxy has done both; here its bytes go on as they are.
                    tls=None,
                    proxy_protocol=None,
                )
                cluster = service_cluster(
                    service, port, where.mesh.settings, policy=policy, subset=subset
                )
                yield _unopened(
                    cluster,
                    hostname,
                    port.number,
                    subset.name if subset is not None else "",
                )


def _unopened(cluster: Any, hostname: str, port: int, subset: str) -> Any:
    """The service's cluster as one that carries bytes; its endpoints are those of the other one."""
    # Before it is renamed: endpoints go by the name of the service's own cluster.
    if cluster.type == cluster_pb2.Cluster.EDS:
        cluster.eds_cluster_config.service_name = cluster.name
    cluster.name = names.sni_cluster(hostname, port, subset)
    if cluster.HasField("load_assignment"):
        cluster.load_assignment.cluster_name = cluster.name

    for name in (
        "transport_socket",
        "transport_socket_matches",
        "typed_extension_protocol_options",
    ):
        cluster.ClearField(name)

    return cluster
