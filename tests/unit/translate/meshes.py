"""Meshes to translate, and Envoy's resources read back out of a snapshot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from google.protobuf import any_pb2
from google.protobuf.json_format import MessageToDict

from dockermesh.config.documents import read_text
from dockermesh.model import (
    Catalog,
    Endpoint,
    Port,
    Protocol,
    ServedPort,
    Service,
    Workload,
    WorkloadKind,
)
from dockermesh.translate.envoy.names import METRICS_LISTENER
from dockermesh.translate.mesh.settings import IstioConfig, MeshSettings, istio_config
from dockermesh.translate.mesh.state import MeshState, Proxy, build_mesh
from dockermesh.xds import Snapshot

MESSAGES = {
    "clusters": cluster_pb2.Cluster,
    "endpoints": endpoint_pb2.ClusterLoadAssignment,
    "listeners": listener_pb2.Listener,
    "routes": route_pb2.RouteConfiguration,
}


def service(
    name: str,
    *addresses: str,
    port: int = 9080,
    protocol: Protocol = Protocol.HTTP,
    **more: Any,
) -> Service:
    endpoints = tuple(
        Endpoint(a, port, workload=f"shop/{name}-{n}", labels={"version": f"v{n}"})
        for n, a in enumerate(addresses, 1)
    )
    ports = more.pop("ports", (Port(port, protocol),))
    return Service(name, f"{name}.service.consul", ports, endpoints, **more)


def workload(
    name: str, *ports: int, address: str = "172.28.0.9", **more: Any
) -> Workload:
    label = name.rpartition("-")[0]
    served = tuple(ServedPort(label, port, "http") for port in ports)
    return Workload(
        id=f"id-{name}",
        name=f"shop/{name}",
        service=label,
        address=address,
        ports=served,
        **more,
    )


ONE_OF_EACH = [
    service("reviews", "10.0.0.1"),
    service("db", "10.0.0.2", port=5432, protocol=Protocol.TCP),
]
"""A service of requests, and one of connections."""
GATEWAY_AT_80 = """
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
"""


def catalog(
    services: Iterable[Service] = (), workloads: Iterable[Workload] = ()
) -> Catalog:
    return Catalog({s.hostname: s for s in services}, {w.name: w for w in workloads})


def edge(text: str) -> IstioConfig:
    reading = read_text(text)
    assert not [f for f in reading.findings if f.is_error], reading.findings
    return istio_config(reading.resources)


def mesh(
    *services: Service, config: str = "", settings: MeshSettings | None = None
) -> MeshState:
    return build_mesh(
        catalog(services), config=edge(config) if config else None, settings=settings
    )


def sidecar(name: str = "front-1", *ports: int) -> Proxy:
    own = workload(name, *ports)
    return Proxy(own.name, address=own.address, workload=own)


def gateway(labels: Mapping[str, str]) -> Proxy:
    own = replace(workload("gateway-1"), kind=WorkloadKind.GATEWAY, labels=labels)
    return Proxy(
        own.name, WorkloadKind.GATEWAY, address=own.address, labels=labels, workload=own
    )


def messages(snapshot: Snapshot, field: str) -> dict[str, Any]:
    """The messages of one type by name, but for the listener that every proxy has for its
    metrics.
    """
    found = {}
    for resource in getattr(snapshot, field).values():
        if resource.name == METRICS_LISTENER:
            continue
        message = MESSAGES[field]()
        assert any_pb2.Any.FromString(resource.any_bytes).Unpack(message), resource.name
        found[resource.name] = message
    return found


def as_dict(snapshot: Snapshot) -> dict[str, list[dict[str, Any]]]:
    """The whole snapshot as Envoy's JSON."""
    found = {
        field: [MessageToDict(m) for _, m in sorted(messages(snapshot, field).items())]
        for field in MESSAGES
    }
    plain: dict[str, list[dict[str, Any]]] = json.loads(
        json.dumps(found)
    )  # packed messages come as OrderedDict
    return plain


def versions(snapshot: Snapshot) -> dict[str, str]:
    """The version of each type's set."""
    return {field: str(getattr(snapshot, field).version) for field in MESSAGES}
