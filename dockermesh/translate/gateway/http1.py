"""What a gateway that ends TLS speaks to a port that does not say what it speaks: HTTP/1.1.

Between sidecars such a port gets what its client spoke. A browser, however, agrees on HTTP/2 with
the gateway and knows nothing of the app. Source: Istio, "Protocol Selection", on gateways;
`useClientProtocol` and a declared protocol say otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.route.v3 import route_pb2

from dockermesh.model.protocol import Protocol
from dockermesh.translate.clusters.cluster import ports_of, service_cluster
from dockermesh.translate.mesh.traffic_policy import effective_policy
from dockermesh.translate.routes.destinations import Destinations


def http1_clusters(
    where: Destinations, table: route_pb2.RouteConfiguration
) -> Iterator[cluster_pb2.Cluster]:
    """The clusters of a table whose protocol nobody declared, in place of those that all proxies
    share.
    """
    for hostname in sorted({name.rpartition("|")[2] for name in _clusters_of(table)}):
        service = where.mesh.services.get(hostname)
        unknown = [
            port
            for port in (ports_of(service) if service is not None else ())
            if port.protocol is Protocol.AUTO
        ]
        if service is None or not unknown:
            continue

        rules = where.index.rules.of(
            hostname, service.namespace, where.scope, service.shared
        )
        rule = where.index.rules.merged(rules)
        for port in unknown:
            for subset in (None, *rule.subsets):
                yield service_cluster(
                    service,
                    replace(port, protocol=Protocol.HTTP),
                    where.mesh.settings,
                    policy=effective_policy(rule, port.number, subset),
                    subset=subset,
                    check=rule.health_check,
                    has_certificate=where.scope.has_certificate,
                    is_assumed=True,
                    scope=where.scope,
                )


def _clusters_of(table: route_pb2.RouteConfiguration) -> Iterable[str]:
    for host in table.virtual_hosts:
        for route in host.routes:
            yield route.route.cluster
            yield from (w.name for w in route.route.weighted_clusters.clusters)
