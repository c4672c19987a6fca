"""Names of the Compose services and volumes that the generator makes.

What registrar and control plane read back, they read from labels (`model/contract.py`), never from
these names.
"""

from __future__ import annotations

from dockermesh.model.contract import EGRESS_GATEWAY, INGRESS_GATEWAY, LABEL_PROJECT

GATEWAY = "gateway"
GATEWAY_POD = "gateway-pod"
GATEWAY_PROXY = "gateway-proxy"
EGRESS_POD = f"{EGRESS_GATEWAY}-pod"
EGRESS_PROXY = f"{EGRESS_GATEWAY}-proxy"


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


def gateway_labels(project: str) -> dict[str, str]:
    """The labels that Gateways select; those of Istio's own ingress gateway, and the project's."""
    return {
        "app": INGRESS_GATEWAY,
        "istio": "ingressgateway",
        LABEL_PROJECT: project,
    }


def egress_labels(project: str) -> dict[str, str]:
    """The labels of the gateway through which traffic leaves the mesh; again those of Istio's
    own.
    """
    return {
        "app": EGRESS_GATEWAY,
        "istio": "egressgateway",
        LABEL_PROJECT: project,
    }
