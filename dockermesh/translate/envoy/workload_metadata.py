"""What clusters and endpoints say of services and workloads, for labels of metrics.

Envoy keeps one copy of equal metadata, so endpoints of one workload cost it little.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from envoy.config.core.v3 import base_pb2

from dockermesh.model import Endpoint, Service
from dockermesh.model.canonical import UNKNOWN, facts_of
from dockermesh.model.contract import CLUSTER_ID

METADATA = "dockermesh.telemetry"
"""The namespace in metadata, and before the state of a connection."""
HOST, SERVICE, SERVICE_NAMESPACE = "host", "service", "namespace"
CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class ServiceName:
    """What all of the mesh call a service."""

    host: str
    name: str
    namespace: str


def name_of(service: Service) -> ServiceName:
    """A service's name; what a project has for itself goes by the name that it has for all."""
    host = service.shared or service.hostname
    return ServiceName(host, service.name or host, service.namespace)


def describe_service(metadata: Any, name: ServiceName) -> None:
    """Note in a cluster's metadata which service it is."""
    told = {HOST: name.host, SERVICE: name.name, SERVICE_NAMESPACE: name.namespace}
    _fill(metadata, told)


def describe_cluster(metadata: Any, name: str) -> None:
    """The same for what leads to no service: Istio calls it by the cluster's own name."""
    _fill(metadata, {SERVICE: name, HOST: UNKNOWN, SERVICE_NAMESPACE: UNKNOWN})


def describe_workload(metadata: Any, endpoint: Endpoint) -> None:
    """Note in an endpoint's metadata whose it is, if its workload is known."""
    if endpoint.workload:
        labels = tuple(sorted(endpoint.labels.items()))
        known = _workload(endpoint.workload, endpoint.namespace, labels)
        metadata.MergeFrom(known)


@lru_cache(maxsize=20_000)
def _workload(
    name: str, namespace: str, labels: tuple[tuple[str, str], ...]
) -> base_pb2.Metadata:
    facts = facts_of(name, namespace, dict(labels))
    made = base_pb2.Metadata()
    _fill(made, {**asdict(facts), CLUSTER: CLUSTER_ID})
    return made


def _fill(metadata: Any, texts: dict[str, str]) -> None:
    fields = metadata.filter_metadata[METADATA].fields
    for key, text in texts.items():
        fields[key].string_value = text
