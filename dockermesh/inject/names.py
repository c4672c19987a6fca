"""Names that the generator gives: Compose services, labels, volumes, networks.

Invariant: they are those of ARCHITECTURE.md; registrar and control plane read them back.
"""

from __future__ import annotations

PREFIX = "dockermesh.io/"
ROLE = PREFIX + "role"
WORKLOAD = PREFIX + "workload"
SERVICE = PREFIX + "service"
KIND = PREFIX + "kind"
NAMESPACE = PREFIX + "namespace"
SERVICE_ACCOUNT = PREFIX + "service-account"
NETWORK = PREFIX + "network"
LABELS = PREFIX + "labels"
ALIASES = PREFIX + "aliases"
CONFIG = PREFIX + "config"
PROJECT = PREFIX + "project"
INJECT = PREFIX + "inject"

DEFAULT_NETWORK = "dockermesh"
TRUST_VOLUME = "dockermesh-trust"
RUN_PATH = "/run/dockermesh"
CAPTURE_PATH = "/etc/dockermesh/capture.rules"
GATEWAY = "gateway"
GATEWAY_POD = "gateway-pod"
GATEWAY_PROXY = "gateway-proxy"
EGRESS = "istio-egressgateway"
EGRESS_POD = "istio-egressgateway-pod"
EGRESS_PROXY = "istio-egressgateway-proxy"


def app_name(service: str, replica: int, replicas: int) -> str:
    """The Compose service of the app's replica; a single one keeps its name."""
    return service if replicas == 1 else f"{service}-{replica}"


def pod_name(service: str, replica: int) -> str:
    """The Compose service of the replica's pod."""
    return f"{service}-{replica}-pod"


def proxy_name(service: str, replica: int) -> str:
    """The Compose service of the replica's proxy."""
    return f"{service}-{replica}-proxy"


def workload_name(project: str, service: str, replica: int) -> str:
    """The name of the workload."""
    return f"{project}/{service}-{replica}"


def run_volume(pod: str) -> str:
    """The tmpfs volume that pod and proxy share."""
    return f"{pod}-run"
