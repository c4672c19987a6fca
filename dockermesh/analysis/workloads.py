"""Workloads: pods, what makes pods, WorkloadEntries and running replicas in one form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dockermesh.analysis.objects import AnalyzedObject, dig, mappings, texts
from dockermesh.model.catalog import Catalog
from dockermesh.model.contract import INGRESS_GATEWAY
from dockermesh.model.workload import WorkloadKind

TEMPLATES = (
    "Deployment",
    "StatefulSet",
    "DaemonSet",
    "ReplicaSet",
    "ReplicationController",
    "Job",
)
"""Kinds whose pods are described by a template."""
INJECT = "sidecar.istio.io/inject"
INJECTION = "istio-injection"
PROXY_CONTAINER = "istio-proxy"
_AMBIENT = "ambient.istio.io/redirection"
_NODE_LABELS = (
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.istio.io/subzone",
)
# Those of Istio's own gateway.
_GATEWAY_PORTS = (80, 443, 31400, 15443)
_GATEWAY_LABELS = {"istio": "ingressgateway"}


@dataclass(frozen=True, slots=True)
class AnalyzedWorkload:
    """A workload; `gateway_ports` are those that the world can reach (None: it is found out by its
    services).
    """

    name: str
    namespace: str
    labels: Mapping[str, str]
    in_mesh: bool = True
    is_ambient: bool = False
    is_kubernetes: bool = False
    is_gateway: bool = False
    gateway_ports: frozenset[int] | None = None

    @property
    def full_name(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


def pod_template(item: AnalyzedObject) -> Mapping[str, Any]:
    """What describes the pod: the object itself for a Pod, else its template."""
    if item.kind == "Pod":
        return item.body
    template = dig(item.body, "spec", "template")
    return template if isinstance(template, Mapping) else {}


def containers(
    template: Mapping[str, Any], *, with_init: bool = False
) -> list[Mapping[str, Any]]:
    """The containers of a pod."""
    found = list(mappings(dig(template, "spec", "containers")))
    return (
        found + list(mappings(dig(template, "spec", "initContainers")))
        if with_init
        else found
    )


def kubernetes_workloads(
    makers: Iterable[AnalyzedObject],
    nodes: Mapping[str, Mapping[str, str]],
    namespaces: Mapping[str, AnalyzedObject],
) -> Iterator[AnalyzedWorkload]:
    """The workloads of files: of pods and of what makes pods; `nodes` are nodes' labels by name."""
    for item in makers:
        template = pod_template(item)
        labels = texts(dig(template, "metadata", "labels"))
        node = dig(template, "spec", "nodeName")

        if isinstance(node, str) and node in nodes:
            places = {
                key: nodes[node][key] for key in _NODE_LABELS if nodes[node].get(key)
            }
            # A pod has its locality from the node that it runs on.
            labels = labels | places | {"kubernetes.io/hostname": node}

        annotations = texts(dig(template, "metadata", "annotations"))
        is_ambient = annotations.get(_AMBIENT) == "enabled"
        yield AnalyzedWorkload(
            item.name,
            item.namespace,
            labels,
            in_mesh=is_ambient or is_in_mesh(item, namespaces),
            is_ambient=is_ambient,
            is_kubernetes=True,
        )


def is_in_mesh(item: AnalyzedObject, namespaces: Mapping[str, AnalyzedObject]) -> bool:
    """Whether a pod has a proxy: its own, by its label or annotation, or by its namespace's
    label.
    """
    template = pod_template(item)
    for container in containers(template, with_init=True):
        # Injection has happened already. Since Kubernetes 1.28 it may be an init container.
        if container.get("name") == PROXY_CONTAINER and container.get("image"):
            return True

    # The label came later, and wins.
    for where in ("labels", "annotations"):
        wanted = texts(dig(template, "metadata", where)).get(INJECT)
        if wanted is not None:
            return wanted == "true"
    namespace = namespaces.get(item.namespace)
    return namespace is not None and namespace.labels.get(INJECTION) == "enabled"


def entry_workloads(entries: Iterable[AnalyzedObject]) -> Iterator[AnalyzedWorkload]:
    """The workloads of WorkloadEntries."""
    for item in entries:
        yield AnalyzedWorkload(
            item.name, item.namespace, {**item.labels, **item.spec.labels}
        )


def catalog_workloads(catalog: Catalog) -> Iterator[AnalyzedWorkload]:
    """The workloads of the registry; those that only endpoints tell of, too."""
    for workload in catalog.workloads.values():
        is_gateway = workload.kind is WorkloadKind.GATEWAY
        # One that publishes nothing is reached inside the mesh, at any port.
        published = frozenset(workload.published) if is_gateway else frozenset()
        yield AnalyzedWorkload(
            workload.name,
            workload.namespace,
            workload.labels,
            is_gateway=is_gateway,
            gateway_ports=published or None,
        )


def default_gateway(namespace: str) -> AnalyzedWorkload:
    """The gateway that is there unless one is described: Istio's, or the one that `dockermesh up`
    makes.
    """
    return AnalyzedWorkload(
        INGRESS_GATEWAY,
        namespace,
        _GATEWAY_LABELS,
        in_mesh=False,
        is_gateway=True,
        gateway_ports=frozenset(_GATEWAY_PORTS),
    )
